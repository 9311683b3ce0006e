"""What never changes is hashed, and compared whenever a store is opened."""

import json
import random
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import zstd

from teacher_cache.cli import main
from teacher_cache.errors import StoreError
from teacher_cache.fill import FillOptions, fill
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.policy import load_policy
from teacher_cache.storage.opening import open_storage
from teacher_cache.store import arrays
from teacher_cache.store.published import SEAL, attributes_document
from teacher_cache.store.schema import created_parts, views_sha256
from teacher_cache.store.sealed import broken, seal
from teacher_cache.store.status import check_committed, status
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.drawn import all_labels
from tests.support.filled_store import files, make_soft_store, make_store, plant
from tests.support.filling import TEACHERS, fill_store, open_test_teacher
from tests.support.teachers import convnet

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4), JSON)
def test_a_changed_part_is_named_and_nothing_else(parts: dict[str, Any], value: Any) -> None:
    sealed = seal(parts)
    assert broken(json.loads(json.dumps(parts)), json.loads(json.dumps(sealed))) == []
    name = next(iter(parts))
    if json.dumps(value, sort_keys=True) != json.dumps(parts[name], sort_keys=True):
        assert broken(parts | {name: value}, sealed) == [name]
    assert broken({other: parts[other] for other in parts if other != name}, sealed) == [name]


def settings(path: Path) -> list[Any]:
    """Everything that a store says of itself but where its shards are, or that it is refused."""
    store = Store.open(path)
    index = store.index
    names = [shard.name for shard in index.shards]
    numbers = [shard.num_bytes for shard in index.shards], [shard.hash for shard in index.shards]
    proof = store.proofs.read(store.proofs.devices[0])
    assert proof is not None
    return [
        *(store.seed, store.views, store.group, store.unit_samples, store.any_device, store.max_pixels),
        *(
            store.class_names,
            store.policy.to_json(),
            store.libraries,
            store.teacher,
            store.proofs.devices,
            store.proofs.builds,
        ),
        *(names, numbers, index.classes.tolist(), index.offsets.tolist(), index.sizes.tolist()),
        *(bytes(index.key_bytes), index.class_from, proof.labels.tolist(), proof.logits.tolist(), proof.replays),
        *(store.read_labels(store.units()[0]).tolist(), store.records.read().tolist()),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_of_metadata_changes_a_setting(tmp_path: Path, seed: int) -> None:
    store = bright_store(tmp_path, counts=(65, 3))
    fill_store(store)
    sound = settings(store.path)
    draw = random.Random(seed)
    documents = sorted(store.path.rglob("zarr.json"))
    assert len(documents) > 12
    refused = 0
    for number in range(150):
        file = documents[number % len(documents)]
        content = file.read_bytes()
        place = draw.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        try:
            assert settings(store.path) == sound, (file, content[place - 20 : place + 20])
        except StoreError:
            refused += 1
        file.write_bytes(content)
    assert refused > 100  # the others lie in white space, in places of shards, or in what nobody reads
    assert settings(store.path) == sound


def edit(file: Path, *path: str, value: Any) -> None:
    document = json.loads(file.read_text())
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("class_names",), [f"renamed {number}" for number in range(10)], "class_names is"),
        (("policy", "erase"), None, "policy is"),
        (("seed",), 4, "seed is"),
        (("max_pixels",), 2**40, "max_pixels is"),
        (("shards",), [], "shards is"),
    ],
)
def test_an_edit_is_named_as_what_it_is(tmp_path: Path, path: tuple[str, ...], value: Any, named: str) -> None:
    store = bright_store(tmp_path)
    edit(store.path / "zarr.json", "attributes", "teacher_cache", *path, value=value)
    said = CliRunner().invoke(main, ["verify", str(store.path), "--workers", "0"])
    assert said.exit_code == 1
    assert said.output.startswith(f"error: {store.path}: {named} not what the store was made with")
    assert said.output.count("\n") == 1


def test_a_renamed_shard_is_named_and_a_moved_one_is_not(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    place = ("attributes", "teacher_cache", "shards")
    shards = json.loads((store.path / "zarr.json").read_text())["attributes"]["teacher_cache"]["shards"]
    edit(store.path / "zarr.json", *place, value=[shard | {"path": "/elsewhere/x.tar"} for shard in shards])
    assert Store.open(store.path).index.shards[0].path == "/elsewhere/x.tar"
    edit(store.path / "zarr.json", *place, value=[shard | {"bytes": 7} for shard in shards])
    with pytest.raises(StoreError, match="shards is not what the store was made with"):
        Store.open(store.path)


def test_an_edited_mean_is_no_default_of_the_next_fill(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    edit(store.path / "teacher" / "zarr.json", "attributes", "mean", value=[0.0, 0.0, 0.0])
    command = ["fill", str(store.path), "--teacher", f"{TEACHERS}:brightness", "--device", "cpu"]
    said = CliRunner().invoke(main, [*command, "--workers", "0"])
    assert said.exit_code == 1
    assert "teacher/zarr.json: mean is not what was written" in said.output


def test_arrays_of_the_index_with_other_shapes_or_codecs_are_refused(tmp_path: Path) -> None:
    path = make_soft_store(tmp_path / "s").path
    file = path / "index" / "offsets" / "zarr.json"
    sound = file.read_text()
    edit(file, "shape", value=[3])
    with pytest.raises(StoreError, match="array index/offsets is not what the store was made with"):
        Store.open(path)
    file.write_text(sound)
    edit(file, "codecs", value=[{"name": "numcodecs.pickle", "configuration": {}}])
    with pytest.raises(StoreError, match=r"offsets has codecs \['numcodecs.pickle'\]"):
        Store.open(path)


OWN = Path(__file__).parents[1] / "support" / "own_operations.py"
ARITHMETIC = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --dtype fp32 --batch-size 32"
GRID = "--views 4 --seed 3 --group 2 --unit-samples 64"
SETS = "--set 'size=[8, 8]' --set 'crop.scale=[0.5, 1.0]' --set rand_augment=none"


def test_schema_1_is_refused_with_the_commands_that_fill_anew(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "schema", value=1)
    with pytest.raises(StoreError) as refused:
        Store.open(store.path)
    assert str(refused.value) == (
        f"{store.path} has schema version 1, this program reads 2, whose labels prove more: index and fill anew, "
        f"`teacher-cache index SHARDS --store NEW --policy cifar {SETS} {GRID}`, then `teacher-cache "
        f"fill NEW --teacher {TEACHERS}:brightness {ARITHMETIC}`"
    )


def test_an_older_policy_version_is_refused_with_the_commands_that_fill_anew(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "policy", "version", value=2)
    with pytest.raises(StoreError, match="policy is not what the store was made with"):
        Store.open(store.path)
    document = json.loads((store.path / "zarr.json").read_text())
    sealed = seal(created_parts(document["attributes"]["teacher_cache"], store.storage))
    edit(store.path / "zarr.json", "attributes", "teacher_cache", SEAL, value=sealed)
    with pytest.raises(StoreError) as refused:
        Store.open(store.path)
    assert str(refused.value) == (
        f"{store.path} has policy version 2, this program renders 3, whose pixels are others: index and fill anew, "
        f"`teacher-cache index SHARDS --store NEW --policy cifar {SETS} {GRID}`, then `teacher-cache "
        f"fill NEW --teacher {TEACHERS}:brightness {ARITHMETIC}`"
    )


@pytest.mark.parametrize(
    "changed",
    [
        (),
        ("size=[8,24]", "crop.scale=[0.5,1.0]", "rand_augment=none", "auto_augment.interpolation=bilinear"),
        ("flip=0", "erase.mode=const", "mix=none", "crop=none", "crop.kind=center", "crop.crop_pct=0.9"),
        ("rand_augment.operations=['Invert','Rotate']", "jitter.hue=0.1", "mean=[0.5,0.5,0.5]", "erase=none"),
    ],
)
def test_the_commands_that_fill_anew_have_the_policys_settings(tmp_path: Path, changed: tuple[str, ...]) -> None:
    policy = load_policy("deit", changed)
    store = bright_store(tmp_path, policy=policy)
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "policy", "version", value=2)
    reseal_store(store.path)
    with pytest.raises(StoreError) as refused:
        Store.open(store.path)
    words = shlex.split(str(refused.value).split("`")[1])
    sets = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    assert load_policy(words[words.index("--policy") + 1], sets) == policy
    assert bool(sets) == bool(changed)


def test_the_commands_that_fill_anew_give_the_same_labels_and_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of weights from a file, of which a store has the name alone, and in another arithmetic than the default."""
    monkeypatch.chdir(tmp_path)
    store = bright_store(tmp_path, any_device=True)
    weights = convnet(store.num_classes, (8, 8)).state_dict()
    torch.save({name: value * 1.5 for name, value in weights.items()}, "its weights.pth")
    asked = {"checkpoint": "its weights.pth", "dtype": "bf16", "mean": (0.5, 0.25, 0.125), "batch_size": 48}
    teacher = open_test_teacher(store, "convnet", **asked, topk=2, tau=2.5)
    fill(store, teacher, FillOptions(workers=0, allow_low_agreement=True), range(store.views))
    before, probabilities = all_labels(store), files(store.path / "topk_probabilities")
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "schema", value=1)

    with pytest.raises(StoreError) as refused:
        Store.open(store.path)
    index, filling = str(refused.value).split("`")[1::2]
    shards = sorted(map(str, (tmp_path / "shards").iterdir()))
    for command in (index.replace("SHARDS", " ".join(shards)), f"{filling} --device cpu --allow-low-agreement"):
        done = CliRunner().invoke(main, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
    anew = Store.open(tmp_path / "NEW")
    assert anew.teacher == teacher.identity
    assert anew.any_device
    assert np.array_equal(all_labels(anew), before)
    assert files(anew.path / "topk_probabilities") == probabilities

    for name, value in (("input_size", 12), ("compile", True)):
        edit(store.path / "teacher" / "zarr.json", "attributes", name, value=value)
    how = r" --input-size 12 --dtype bf16 --batch-size 48 --compile --topk 2 --tau 2\.5`"
    with pytest.raises(StoreError, match=how):
        Store.open(store.path)


def test_the_commands_that_fill_anew_ask_for_own_operations(tmp_path: Path) -> None:
    own = open_operations(f"{OWN}:operations")
    store = bright_store(tmp_path, counts=(2,), policy=load_policy("cifar", ["size=8"], own))
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "schema", value=1)
    with pytest.raises(StoreError) as refused:
        Store.open(store.path)
    ops = "--ops FILE.py:operations"
    assert f"--policy cifar --set 'size=[8, 8]' {ops} {GRID}`, then" in str(refused.value)
    assert str(refused.value).endswith(f"fill NEW --teacher TEACHER {ops}`")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ["cifar"]),
        ("name", "a policy's file"),
        ("crop", {"kind": {"r": 1}, "scale": {}}),
        ("size", {"8": [8]}),
        ("own_operations", {"names": 5}),
        ("rand_augment", {"operations": 7, "\x1b[2J": "`rm`"}),
        ("mix", [[]]),
    ],
)
def test_an_older_store_with_strange_settings_is_refused_in_the_same_line(
    tmp_path: Path, key: str, value: object
) -> None:
    store = bright_store(tmp_path, counts=(2,))
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "policy", key, value=value)
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "schema", value=1)
    with pytest.raises(StoreError, match=r"index and fill anew, `teacher-cache index SHARDS --store NEW --policy "):
        Store.open(store.path)


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    """Room for later versions: more attributes, more arrays, a writer's name in records."""
    store = bright_store(tmp_path)
    fill_store(store)
    before = settings(store.path)
    edit(store.path / "zarr.json", "attributes", "teacher_cache", "later", value={"claims": True})
    (store.path / "claims").mkdir()
    (store.path / "claims" / "zarr.json").write_text(
        json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"})
    )
    assert settings(store.path) == before
    assert not Store.open(store.path).missing_units()


@pytest.mark.parametrize("name", ["classes", "counts", "fingerprints"])
def test_an_absent_chunk_of_the_index_is_no_zeros(tmp_path: Path, name: str) -> None:
    """Zarr reads it as its fill value, without any error: every sample would be of class 0."""
    store = bright_store(tmp_path)
    (store.path / "index" / name / "c" / "0").unlink()
    with pytest.raises(StoreError, match=rf"index/{name} of \S+ cannot be read \(0 of 1 chunk are there\)"):
        _ = Store.open(store.path).index


def reseal_store(path: Path) -> None:
    """The same of a store's arrays that were edited."""
    document = json.loads((path / "zarr.json").read_text())
    settings = document["attributes"]["teacher_cache"]
    settings[SEAL] = seal(created_parts(settings, open_storage(path)))
    (path / "zarr.json").write_text(json.dumps(document))


def write_array(folder: Path, values: np.ndarray) -> None:
    """An array of one chunk, in the place of another."""
    document = json.loads((folder / "zarr.json").read_text())
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = list(values.shape)
    (folder / "zarr.json").write_text(json.dumps(document))
    (folder / "c" / "0").write_bytes(zstd.compress(values, 5, True))


def reseal(file: Path, **changes: Any) -> None:
    """An edit of a group by somebody who means to deceive: its hash fits."""
    attributes = json.loads(file.read_text())["attributes"]
    del attributes[SEAL]
    attributes = {name: value for name, value in (attributes | changes).items() if value is not ...}
    file.write_bytes(attributes_document(attributes))


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        ("teacher", {"dtype": "fp8"}, "teacher: dtype: input should be 'fp32', 'bf16' or 'fp16'"),
        ("teacher", {"mean": ["a", 0, 0]}, r"teacher: mean\.0: input should be a valid number"),
        ("teacher", {"batch_size": -1}, "teacher: batch_size: input should be greater than or equal to 1"),
        ("teacher/device-*", {"device": ...}, "device is missing"),
        ("teacher/build-*", {"threads": "many"}, "threads: input should be a valid integer"),
    ],
)
def test_what_a_store_says_must_mean_something_though_its_hash_fits(
    tmp_path: Path, group: str, changes: dict[str, Any], message: str
) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    (folder,) = store.path.glob(group)
    reseal(folder / "zarr.json", **changes)
    with pytest.raises(StoreError, match=message):
        status(Store.open(store.path))


def test_a_label_beyond_the_classes_is_refused_though_its_hash_fits(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store)
    unit = store.units()[0]
    values = store.read_labels(unit).copy()
    values[0, 0] = store.num_classes
    plant(store, "labels", unit, values)
    with pytest.raises(StoreError, match=r"labels of .* are damaged \(not all are below 10\)"):
        store.read_labels(unit)


def test_a_grid_beyond_all_bounds_is_refused_though_its_hash_fits(tmp_path: Path) -> None:
    """Every command would list its units."""
    views = 4 * 10**9
    path = make_store(tmp_path / "s").path
    for name, length in (("labels", views), ("digests", views), ("records", views // 2)):
        document = json.loads((path / name / "zarr.json").read_text())
        document["shape"][2] = length
        (path / name / "zarr.json").write_text(json.dumps(document))
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["teacher_cache"] |= {"views": views, "views_sha256": views_sha256(views)}
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"s: 4,000,000,000 views, in groups of 2, are more than 1,048,576, the most"):
        Store.open(path)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([-5, 1, 0, 200], "counts are negative"),
        ([10**13, 1, 0, 200], r"counts are of 10,000,000,000,201 samples, key_ends has shape \(331,\)"),
        ([2**63 - 1, 2**63 - 1, 333, 0], r"counts are of 18,446,744,073,709,551,947 samples, key_ends has"),
        ([1, 0, 0, 330], r"counts say 3 units of the largest shard, the records 2"),
        ([131, 0, 200], r"counts has shape \(3,\) and type int64, expected \(4,\)"),
        ([0, 0, 0, 0], "all 0"),
    ],
)
def test_counts_that_are_not_the_stores_are_refused_by_who_reads_nothing_else(
    tmp_path: Path, counts: list[int], message: str
) -> None:
    path = make_store(tmp_path / "s").path
    write_array(path / "index" / "counts", np.array(counts, np.int64))
    reseal_store(path)
    for read in (status, check_committed):
        with pytest.raises(StoreError, match=message):
            read(Store.open(path))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("key_bytes", {"shape": [400_000]}, r"index/key_bytes of .* \(it has 400,000 items, 343,040 are the most\)"),
        ("classes", {"shape": [336]}, r"index/classes of .* \(it has 336 items, 335 are the most\)"),
        ("key_bytes", {"chunk_grid": [343_041]}, r"\(its chunks have 343,041 items, 343,040 are the most\)"),
        ("key_bytes", {}, r"\(its chunks have 1,986 items, 1,000 are the most\)"),
        ("fingerprints", {"data_type": "float64"}, "fingerprints has type float64, expected uint64"),
    ],
)
def test_an_index_that_its_shards_cannot_hold_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any], message: str
) -> None:
    """Some bytes of zstd stand for gigabytes."""
    path = make_store(tmp_path / "s").path  # 331 samples in 343,040 bytes of shards
    if not changes:
        monkeypatch.setattr(arrays, "_INDEX_CHUNK_ITEMS", 1000)
    file = path / "index" / name / "zarr.json"
    document = json.loads(file.read_text())
    if "chunk_grid" in changes:
        document["chunk_grid"]["configuration"]["chunk_shape"] = changes["chunk_grid"]
    else:
        document |= changes
    file.write_text(json.dumps(document))
    reseal_store(path)
    with pytest.raises(StoreError, match=message):
        _ = Store.open(path).index


def test_topk_of_more_classes_than_there_are_is_refused_though_its_hash_fits(tmp_path: Path) -> None:
    path = make_soft_store(tmp_path / "s").path
    facts = json.loads((path / "teacher/zarr.json").read_text())["attributes"]["topk_arrays"]
    for name, last in (("topk_classes", 10**9), ("topk_probabilities", 10**9 + 1)):
        file = path / name / "zarr.json"
        document = json.loads(file.read_text())
        document["shape"][3] = document["chunk_grid"]["configuration"]["chunk_shape"][3] = last
        file.write_text(json.dumps(document))
        facts[name]["shape"][2] = facts[name]["chunk_grid"]["configuration"]["chunk_shape"][3] = last
    reseal(path / "teacher/zarr.json", topk_arrays=facts)
    for topk in (3, 10**9):
        reseal(path / "teacher/zarr.json", topk=topk)
        with pytest.raises(StoreError, match=rf"topk_classes, topk_probabilities are not of a topk of {topk}"):
            Store.open(path)
