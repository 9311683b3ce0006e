"""Stage one, from shards to labels: exact, resumable, and refusing what would make labels wrong."""

import io
import json
import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from PIL import Image

from teacher_cache.claims import Claims, open_claims
from teacher_cache.cli import main
from teacher_cache.errors import (
    AgreementError,
    DriftError,
    ImageError,
    StoreError,
    TeacherError,
)
from teacher_cache.fill import FillOptions, OpenFill, fill, fill_views, open_pool
from teacher_cache.job import Job
from teacher_cache.rendering.choice import ON_CPU
from teacher_cache.replay.block import replay
from teacher_cache.shards.read import read_block
from teacher_cache.storage.opening import open_storage
from teacher_cache.store.labels import skipped_samples
from teacher_cache.store.proof import Proof
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from teacher_cache.store.topk import top_classes
from teacher_cache.store.unit import Unit
from teacher_cache.teacher.identity import TeacherIdentity
from teacher_cache.verify import verify
from tests.support.bright_shards import bright_store, change_pixel, small_policy, spoil_image, write_bright_shards
from tests.support.filled_store import Killed, chunk, files
from tests.support.filling import TEACHERS, fill_store, fill_words, open_test_teacher
from tests.support.forked import Forks
from tests.support.interrupted import kill_before
from tests.support.running import descendants, running, wait_until
from tests.support.running import workers as workers_of
from tests.support.shard_files import write_shard


def all_labels(store: Store) -> dict[Unit, np.ndarray]:
    return {unit: store.read_labels(unit) for unit in store.units()}


def test_every_cached_label_is_what_an_online_teacher_says(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(130, 64, 1, 65), views=4)
    fill_store(store, "convnet", allow_low_agreement=True)
    teacher = open_test_teacher(store, "convnet")
    compared = 0
    for shard in range(store.index.num_shards):
        for number in range(store.index.num_blocks(shard)):
            block = read_block(store.index.place(shard, number))
            for replayed in replay(store.policy, store.seed, block, range(store.views)):
                for position, pixels in enumerate(replayed.pixels):
                    online = teacher.logits(pixels[None]).argmax()  # alone in its batch
                    group, column = divmod(replayed.view, store.group)
                    assert store.read_labels(Unit(shard, number, group))[position, column] == online
                    compared += 1
    assert compared == 260 * 4 >= 1000
    assert len(np.unique(np.concatenate([labels.ravel() for labels in all_labels(store).values()]))) > 3


@pytest.mark.parametrize("workers", [1, 3])
def test_the_store_does_not_depend_on_workers(tmp_path: Path, workers: int) -> None:
    fill_store(bright_store(tmp_path, name="alone"))
    fill_store(bright_store(tmp_path, name="workers"), workers=workers)
    assert files(tmp_path / "alone") == files(tmp_path / "workers")


def test_ranks_wait_for_a_unit_of_another_job_as_long_as_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than they wait for each other: the other job's claim changes, then its unit is there."""
    monkeypatch.setattr("teacher_cache.fill.POLL_S", 0.1)
    store = bright_store(tmp_path, counts=(130,))
    fill_store(store)
    record = chunk(store, "records", Unit(0, 1, 1))
    content = record.read_bytes()
    record.unlink()
    other = Claims(open_storage(tmp_path / "store.claims"))
    assert list(other.take([Unit(0, 1, 1)])) == [Unit(0, 1, 1)]

    def work() -> None:
        for _ in range(15):
            time.sleep(0.2)
            other.beat()
        record.write_bytes(content)
        other.release(Unit(0, 1, 1))

    job = Job(0, 2, torch.device("cpu"), store=dist.HashStore(), timeout_s=1.0)
    teacher = open_test_teacher(store)
    with (
        open_pool(store, FillOptions(workers=0), ON_CPU, print) as pool,
        open_claims(store) as claims,
        ThreadPoolExecutor(1) as threads,
    ):
        held = OpenFill(store, teacher, pool, job, claims, False, lambda: None, print)
        done = threads.submit(work)
        fill_views(held, range(4), lambda num_views: None)
        done.result()
    assert not store.missing_units()
    assert job.add("units", 0) == 0


def test_groups_filled_one_by_one_and_last_first_give_the_same_store(tmp_path: Path) -> None:
    fill_store(bright_store(tmp_path, name="at once"))
    store = bright_store(tmp_path, name="in parts")
    fill_store(store, views=range(2, 4))
    assert [unit.group for unit in store.missing_units()] == [0] * 7
    fill_store(store, views=range(0, 2))
    assert files(tmp_path / "at once") == files(tmp_path / "in parts")


@pytest.mark.parametrize("topk", [0, 3])
def test_two_ranks_fill_the_same_store(tmp_path: Path, forks: Forks, topk: int) -> None:
    fill_store(bright_store(tmp_path, name="one"), topk=topk)
    bright_store(tmp_path, name="two")
    words = fill_words(tmp_path / "two", *soft(topk))
    torchrun = ["--standalone", "--nproc-per-node", "2", "-m", "teacher_cache", *words]
    launcher = forks.start("torch.distributed.run", torchrun)
    assert launcher.wait() == 0, launcher.output
    # each rank has fewer threads than one process alone: a build of its own
    assert without_builds(files(tmp_path / "one")) == without_builds(files(tmp_path / "two"))
    threads = {build["threads"] for build in Store.open(tmp_path / "two").proofs.builds}
    assert threads == {max(1, len(os.sched_getaffinity(0)) // 2)}


def soft(topk: int) -> tuple[object, ...]:
    return ("--topk", topk) if topk else ()


def without_builds(found: dict[str, str]) -> dict[str, str]:
    return {name: content for name, content in found.items() if not name.startswith("teacher/build-")}


@pytest.mark.parametrize(("topk", "wanted_kills", "views"), [(0, 10, 24), (3, 3, 10)])
def test_killed_many_times_and_resumed_equals_uninterrupted(
    tmp_path: Path, forks: Forks, topk: int, wanted_kills: int, views: int
) -> None:
    counts = (130, 9, 1, 64, 8, 65, 4, 2)  # 11 units a group: 132, more than ten kills can leave behind
    fill_store(bright_store(tmp_path, counts=counts, views=views, name="whole"), topk=topk)
    store = bright_store(tmp_path, counts=counts, views=views, name="killed")
    draw = random.Random(5)
    command = fill_words(store.path, *soft(topk))
    for _ in range(wanted_kills):
        wanted = store.committed().sum() + draw.randint(0, 4)
        process = forks.start("teacher_cache", command)
        while store.committed().sum() < wanted and process.running():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(process.id, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed: give it more to do"
    assert store.missing_units(), "everything was committed before the last kill: the test shows nothing"
    assert forks.start("teacher_cache", command).wait() == 0
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_a_unit_that_a_killed_writer_left_damaged_is_written_anew(tmp_path: Path) -> None:
    fill_store(bright_store(tmp_path, name="whole"))
    store = bright_store(tmp_path, name="damaged")
    fill_store(store, views=range(0, 2))
    labels = store.path / "labels" / "c" / "0" / "1"
    labels.mkdir(parents=True, exist_ok=True)
    (labels / "1").write_bytes(b"half a chunk")
    (labels / "1.0123456789abcdef0123456789abcdef.partial").write_bytes(b"left by a killed writer")
    fill_store(store)
    assert files(tmp_path / "whole") == files(tmp_path / "damaged")


def test_what_killed_workers_left_beside_a_store_is_swept_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims, also by a job that claims nothing, and a unit that was committed but for its last write just then."""
    fill_store(bright_store(tmp_path, name="whole"))
    store = bright_store(tmp_path)
    other, last = Store.open(store.path, writable=True), store.units()[-1]
    labels, commit_unit = Store.open(tmp_path / "whole").read_unit(last), store.commit_unit
    counts = Store.open(tmp_path / "whole").records.read_one(last).counts
    storage = open_storage(tmp_path / "store.claims")
    assert list(Claims(storage).take([last])) == [last]

    def commit(unit: Unit, *what: object) -> bool:
        if unit == store.units()[-2]:
            with monkeypatch.context() as patch:
                kill_before(patch, 4)  # to remove what it had put
                with pytest.raises(Killed):
                    other.commit_unit(last, labels, counts, "cpu")
        return commit_unit(unit, *what)

    monkeypatch.setattr(store, "commit_unit", commit)
    fill_store(store, claim=True)
    assert files(store.path) == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "store", "whole"]
    assert list(Claims(storage).take([last])) == [last]
    fill_store(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "store", "whole"]


def test_sigterm_keeps_committed_units_and_says_so(tmp_path: Path, forks: Forks) -> None:
    store = bright_store(tmp_path, counts=(640, 640), views=16)
    process = forks.start("teacher_cache", fill_words(store.path))
    while not store.committed().any():
        time.sleep(0.01)
    assert process.stop(signal.SIGTERM) == 130
    assert "committed units are kept" in process.output
    assert store.missing_units()


def test_uneven_shards_and_a_last_block_of_one(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(65, 1, 129), views=2)
    assert fill_store(store) == 2 + 1 + 3
    assert all((labels[: len(store.layout.rows(unit))] >= 0).all() for unit, labels in all_labels(store).items())
    assert verify(store, 1.0).exact


def test_extended_views_are_added_and_old_ones_untouched(tmp_path: Path) -> None:
    store = bright_store(tmp_path, views=2)
    fill_store(store)
    before = files(store.path / "labels")
    store.extend(3)
    assert Store.open(store.path).views == 4
    fill_store(Store.open(store.path, writable=True))
    after = files(store.path / "labels")
    assert {name: after[name] for name in before if name != "zarr.json"} == {
        name: content for name, content in before.items() if name != "zarr.json"
    }
    fill_store(bright_store(tmp_path, views=4, name="at once"))
    assert files(store.path) == files(tmp_path / "at once")


# -- refusals ------------------------------------------------------------------------------------------------------


def test_agreement_near_chance_stops_before_anything_is_written(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    with pytest.raises(AgreementError, match=r"train-0000.tar.*no better than chance.*--allow-low-agreement"):
        fill_store(store, "constant")
    assert store.teacher is None
    assert not store.committed().any()


def test_a_shifted_class_list_is_refused_and_named_when_allowed(tmp_path: Path) -> None:
    store = bright_store(tmp_path, policy=small_policy("mix=none"))
    warnings: list[str] = []
    with pytest.raises(AgreementError):
        fill_store(store, "shifted")
    fill(
        store,
        open_test_teacher(store, "shifted"),
        FillOptions(workers=0, allow_low_agreement=True),
        range(2),
        warn=warnings.append,
    )
    assert any("a shifted list looks like this" in warning for warning in warnings)


def test_a_good_teacher_gives_no_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    store = bright_store(tmp_path)
    teacher = open_test_teacher(store)
    fill(store, teacher, FillOptions(workers=0), range(4), warn=warnings.append)
    assert warnings == []


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    with pytest.raises(TeacherError, match=r"weights_sha256 is .*one store holds one teacher's labels"):
        fill_store(store, "shifted", allow_low_agreement=True)
    with pytest.raises(TeacherError, match="batch_size is 32; this teacher's batch_size is 16"):
        fill(store, open_test_teacher(store, batch_size=16), FillOptions(workers=0), range(4))


def test_a_job_that_was_second_to_bind_goes_on_with_the_same_teacher_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, refused in (("brightness", False), ("shifted", True)):
        store = bright_store(tmp_path, name=name)
        first = open_test_teacher(store).identity
        publish = store.publish_teacher

        def beaten(identity: TeacherIdentity, proof: Proof, *, publish=publish, first=first) -> None:
            publish(first, proof)  # another job's, between our look and our own
            publish(identity, proof)

        monkeypatch.setattr(store, "publish_teacher", beaten)
        if refused:
            with pytest.raises(TeacherError, match="weights_sha256"):
                fill_store(store, name, allow_low_agreement=True)
            assert not store.committed().any()
        else:
            fill_store(store, name)
            assert store.committed().sum() == len(store.units())


def test_a_store_whose_teacher_is_lost_is_not_bound_to_another(tmp_path: Path) -> None:
    """As a copy that broke off is: the rest would be another teacher's labels, and the store say that all are."""
    store = bright_store(tmp_path, views=4, group=2)
    fill_store(store, views=range(2))
    shutil.rmtree(store.path / "teacher")
    before = files(store.path)
    lost = Store.open(store.path, writable=True)
    with pytest.raises(StoreError, match=r"has \d+ labelled units?, and its teacher/ is absent: restore that from a"):
        fill_store(lost, "shifted", allow_low_agreement=True)
    assert files(store.path) == before


def test_another_device_needs_a_store_made_for_any(tmp_path: Path) -> None:
    for any_device in (False, True):
        store = bright_store(tmp_path, any_device=any_device, name=f"any-{any_device}")
        fill_store(store, views=range(2))
        teacher = open_test_teacher(store)
        teacher.identity = replace(teacher.identity, device="Another Device")
        if any_device:
            fill(store, teacher, FillOptions(workers=0), range(4))
            assert "Another Device" in store.proofs.devices
        else:
            with pytest.raises(TeacherError, match="--devices any"):
                fill(store, teacher, FillOptions(workers=0), range(4))


# -- topk ----------------------------------------------------------------------------------------------------------


def test_every_cached_probability_is_what_an_online_teacher_says(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(130, 1))
    fill_store(store, "convnet", topk=4, tau=2.0, allow_low_agreement=True)
    assert (store.topk, store.tau) == (4, 2.0)
    teacher = open_test_teacher(store, "convnet")
    compared = 0
    for shard in range(store.index.num_shards):
        for number in range(store.index.num_blocks(shard)):
            block = read_block(store.index.place(shard, number))
            for replayed in replay(store.policy, store.seed, block, range(store.views)):
                group, column = divmod(replayed.view, store.group)
                values = store.read_unit(Unit(shard, number, group))
                rows = len(replayed.pixels)
                logits = [teacher.logits(replayed.pixels[first : first + 32]) for first in range(0, rows, 32)]
                classes, parts = top_classes(np.concatenate(logits), 4, 2.0)
                assert values.topk_classes is not None
                assert values.topk_probabilities is not None
                np.testing.assert_array_equal(values.topk_classes[:rows, column], classes)
                np.testing.assert_array_equal(values.topk_probabilities[:rows, column], parts)
                np.testing.assert_array_equal(values.labels[:rows, column], classes[:, 0])
                compared += rows
    assert compared == 131 * 4


def test_labels_and_digests_do_not_depend_on_topk(tmp_path: Path) -> None:
    hard, soft = bright_store(tmp_path, name="hard"), bright_store(tmp_path, name="soft")
    fill_store(hard, "convnet", allow_low_agreement=True)
    fill_store(soft, "convnet", allow_low_agreement=True, topk=10)
    for name in ("labels", "digests"):
        assert files(hard.path / name) == files(soft.path / name)
    assert not (hard.path / "topk_classes").exists()
    assert soft.tau == 1.0


@pytest.mark.parametrize(
    ("stored", "asked", "message"),
    [
        ((3, 2.0), {"topk": 4}, "topk is 3; this teacher's topk is 4: one store holds .*`teacher-cache index --like`"),
        ((3, 2.0), {"topk": 0}, "topk is 3; this teacher's topk is 0"),
        ((3, 2.0), {"tau": 1.0}, "tau is 2.0; this teacher's tau is 1.0: .*`teacher-cache index --like`"),
        ((None, None), {"topk": 3}, "topk is 0; this teacher's topk is 3: .*`teacher-cache index --like`"),
        ((None, None), {"tau": 2.0}, "--tau 2 says nothing without probabilities: give --topk K too"),
        ((None, None), {"topk": 11}, "--topk 11 is not within the store's 10 classes"),
        ((3, 2.0), {"topk": 3, "tau": 0.0}, "--tau 0.0 is not a positive number"),
        ((3, 2.0), {"tau": float("nan")}, "--tau nan is not a positive number"),
    ],
)
def test_one_store_holds_one_topk_and_tau(
    tmp_path: Path, stored: tuple[int | None, float | None], asked: dict[str, float], message: str
) -> None:
    store = bright_store(tmp_path, counts=(65,))
    fill_store(store, views=range(2), topk=stored[0], tau=stored[1])
    before = files(store.path)
    with pytest.raises(TeacherError, match=message):
        fill_store(store, **asked)
    assert files(store.path) == before
    fill_store(store)  # takes the store's
    assert not store.missing_units()


def test_of_two_first_fills_with_different_topk_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bright_store(tmp_path)
    first = open_test_teacher(store, topk=3).identity
    publish = store.publish_teacher

    def beaten(identity: TeacherIdentity, proof: Proof) -> None:
        other = Store.open(store.path, writable=True)
        other.publish_teacher(first, proof)  # another job's, between our look and our own
        publish(identity, proof)

    monkeypatch.setattr(store, "publish_teacher", beaten)
    with pytest.raises(TeacherError, match="topk is 3; this teacher's topk is 5"):
        fill_store(store, topk=5)
    assert not store.committed().any()
    monkeypatch.undo()
    fill_store(store)
    assert store.read_array("topk_classes", Unit(0, 0, 0)).shape == (64, 2, 3)


def test_skipped_samples_have_no_probabilities(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    spoil_image(store, 70)
    fill_store(store, skip_bad=True, topk=3)
    values = store.read_unit(Unit(0, 1, 0))
    assert values.topk_classes is not None
    assert values.topk_probabilities is not None
    assert (values.topk_classes[70 - 64] == -2).all()
    assert not values.topk_probabilities[70 - 64].any()
    assert verify(store, 1.0, teacher=open_test_teacher(store)).exact


def test_an_estimate_needs_no_more_shards_than_it_reads(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(130, 65))
    Path(store.index.shards[1].path).unlink()
    estimate = CliRunner().invoke(main, [*fill_words(store.path), "--estimate"])
    assert estimate.exit_code == 0, estimate.output
    filled = CliRunner().invoke(main, fill_words(store.path))
    assert (filled.exit_code, filled.output.count("\n")) == (1, 1)
    assert filled.output.startswith("error: 1 of 2 shards is not where the store says")


def test_topk_from_the_command_line(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(130,))
    run = CliRunner()
    command = [*fill_words(store.path, "--topk", 3), "--tau", "2"]
    estimate = run.invoke(main, [*command, "--estimate"])
    assert estimate.exit_code == 0, estimate.output
    files_told = {words[0]: words[-1] for words in map(str.split, estimate.output.splitlines()[2:])}
    assert files_told["16"] == str(5 * 3 * 8)  # 5 files a unit, 3 units a group, 16 views in groups of 2
    assert Store.open(store.path).teacher is None
    part = run.invoke(main, [*command, "--views", "0:2"])
    assert part.exit_code == 0, part.output
    other = run.invoke(main, [*fill_words(store.path), "--tau", "3"])
    assert other.exit_code == 1
    assert other.output.splitlines()[-1].startswith("error: the store was filled by")
    assert "tau is 2.0; this teacher's tau is 3.0" in other.output
    done = run.invoke(main, fill_words(store.path))
    assert "520 of 520 views labelled" in done.output
    shown = run.invoke(main, ["status", str(store.path)]).output
    assert "the 3 largest probabilities of a view at tau 2" in shown
    found = json.loads(run.invoke(main, ["status", str(store.path), "--json"]).output)
    assert (found["topk"], found["tau"]) == (3, 2.0)
    assert found["bytes"]["topk_probabilities"] > 0
    teacher = ["--teacher", f"{TEACHERS}:brightness", "--device", "cpu", "--workers", "0", "--fraction", "1"]
    checked = run.invoke(main, ["verify", str(store.path), *teacher])
    assert checked.exit_code == 0, checked.output
    assert "520 labels checked: 0 differences" in checked.output
    coarse = run.invoke(main, ["verify", str(store.path), *teacher, "--dtype", "bf16"])
    assert coarse.exit_code == 0, coarse.output
    alone = bright_store(tmp_path, counts=(130,), name="alone")
    refused = run.invoke(main, [*fill_words(alone.path), "--tau", "2"])
    assert refused.exit_code == 1
    assert "error: --tau 2 says nothing without probabilities: give --topk K too" in refused.output


# -- bad images, drift ---------------------------------------------------------------------------------------------


def test_the_limit_in_pixels_that_index_sets_is_kept_and_obeyed(tmp_path: Path) -> None:
    """Pictures of 120 pixels."""
    write_bright_shards(tmp_path, (65,))
    shards, run = str(tmp_path / "train-0000.tar"), CliRunner()
    settings = ["--policy", "cifar", "--set", "size=8", "--set", "rand_augment=none", "--views", "2"]
    for limit, fits in ((119, False), (120, True)):
        store = str(tmp_path / f"store-{limit}")
        assert (
            run.invoke(main, ["index", shards, "--store", store, *settings, "--max-pixels", str(limit)]).exit_code == 0
        )
        assert Store.open(store).max_pixels == limit
        filled = run.invoke(main, fill_words(Path(store)))
        message = "the image is 12 x 10 pixels large, more than the 119 that this store allows"
        assert (filled.exit_code == 0, message in filled.output) == (fits, not fits), filled.output
        like = f"{store}-like"
        assert run.invoke(main, ["index", "--like", store, "--store", like]).exit_code == 0
        assert Store.open(like).max_pixels == limit
    skipped = run.invoke(main, [*fill_words(tmp_path / "store-119"), "--skip-bad", "--allow-low-agreement"])
    assert skipped.exit_code == 0, skipped.output
    assert "65 samples skipped" in skipped.output


def test_images_that_a_decoder_warns_of_are_labelled_counted_and_told(tmp_path: Path) -> None:
    paths = [str(write_shard(tmp_path / "shards" / "train-0000.tar", [jpeg_sample(n) for n in range(30)]))]
    store = bright_store(tmp_path)
    assert [shard.path for shard in store.index.shards] == paths
    warnings: list[str] = []
    options = FillOptions(workers=0, allow_low_agreement=True)
    fill(store, open_test_teacher(store), options, range(4), warn=warnings.append)
    told = [warning for warning in warnings if "Pillow decodes it" in warning]
    assert told == [
        f"shard train-0000.tar, key s{number}: Corrupt JPEG data: premature end of data segment; it is labelled as "
        "Pillow decodes it: restore the image if you can"
        for number in range(0, 20, 2)
    ]
    assert sum("more images are damaged" in warning for warning in warnings) == 1
    assert not store.missing_units()
    assert status(store)["damaged"] == 15 * 4
    assert "60 views of images that a decoder warned of" in CliRunner().invoke(main, ["status", str(store.path)]).output


def jpeg_sample(number: int) -> dict[str, object]:
    """A JPEG; of every second one a third of the data is gone, and its end marker is there."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "jpeg")
    image = stream.getvalue()
    if number % 2 == 0:
        image = image[: len(image) * 2 // 3] + b"\xff\xd9"
    return {"__key__": f"s{number}", "jpg": image, "cls": str(number % 10).encode()}


def test_a_bad_image_stops_naming_shard_and_key(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    shard, key = spoil_image(store, 70)
    with pytest.raises(ImageError, match=f"{shard}.*{key}"):
        fill_store(store, workers=1)


def test_skip_bad_counts_and_lists_the_sample_and_its_partner_stays_whole(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    spoil_image(store, 70)
    fill_store(store, skip_bad=True)
    assert skipped_samples(store).tolist() == [70]
    assert (store.read_labels(Unit(0, 1, 0))[70 - 64] == -2).all()
    result = CliRunner().invoke(main, ["status", str(store.path)])
    assert "1 sample: train-0000.tar s00139 " in result.output
    assert store.index.key(70) in result.output.replace("\n", "")
    assert verify(store, 1.0).exact


def test_fill_refuses_to_add_to_a_store_whose_pixels_it_cannot_repeat(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    shard, block = change_pixel(store, 5)
    with pytest.raises(DriftError, match=f"{shard}, block {block}, view 0.*torch"):
        fill_store(store)
    assert not store.committed()[:, :, 1].any()


# -- the rendering processes ---------------------------------------------------------------------------------------


def test_workers_end_when_their_parent_is_killed(tmp_path: Path, forks: Forks) -> None:
    store = bright_store(tmp_path, counts=(640, 640), views=16)
    process = forks.start("teacher_cache", fill_words(store.path, workers=2))
    wait_until(lambda: store.committed().any())
    left = descendants(process.id)
    assert len(workers_of(process.id)) == 2
    os.kill(process.id, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not running(left))


# -- the command line ----------------------------------------------------------------------------------------------


def test_index_fill_status_verify_extend_from_the_command_line(tmp_path: Path) -> None:
    write_bright_shards(tmp_path, (130, 65))
    store, shards = str(tmp_path / "store"), str(tmp_path / "train-{0000..0001}.tar")
    run = CliRunner()
    settings = ["--policy", "cifar", "--set", "size=8", "--set", "rand_augment=none", "--seed", "3"]
    made = run.invoke(main, ["index", shards, "--store", store, "--views", "3", "--group", "2", *settings])
    assert made.exit_code == 0, made.output
    assert "3 views rounded up to 4" in made.output
    assert "195 samples in 2 shards, 10 classes, 4 views" in made.output
    assert not Path(f"{store}.walk").exists()
    fill_it = fill_words(Path(store))
    estimate = run.invoke(main, [*fill_it, "--estimate"])
    assert estimate.exit_code == 0, estimate.output
    assert "nothing was committed" in estimate.output
    assert Store.open(store).teacher is None
    part = run.invoke(main, [*fill_it, "--views", "1:2"])
    assert part.exit_code == 0, part.output
    assert "rounded out to 0:2" in part.output
    done = run.invoke(main, fill_it)
    assert done.exit_code == 0, done.output
    assert "780 of 780 views labelled" in done.output
    again = run.invoke(main, fill_it)
    assert "0 units filled now" in again.output
    assert "100.0 %" in run.invoke(main, ["status", store]).output
    assert '"labelled": 780' in run.invoke(main, ["status", store, "--json"]).output
    assert "0 differences" in run.invoke(main, ["verify", store, "--fraction", "1", "--workers", "0"]).output
    assert "4 -> 6 views" in run.invoke(main, ["extend", store, "--views", "5"]).output
    like = run.invoke(main, ["index", "--like", store, "--store", f"{store}-2", "--views", "2", *settings[:-2]])
    assert like.exit_code == 0, like.output
    assert Store.open(f"{store}-2").index.num_samples == 195
    same = run.invoke(main, ["index", "--like", store, "--store", f"{store}-3", "--views", "2", "--set", "size=16"])
    assert same.exit_code == 0, same.output
    policy = Store.open(store).policy
    assert Store.open(f"{store}-3").policy == policy.model_copy(update={"size": (16, 16)})
    whole = run.invoke(main, ["index", "--like", store, "--store", f"{store}-4"])
    assert whole.exit_code == 0, whole.output
    assert "195 samples in 2 shards, 10 classes, 6 views" in whole.output
    sizes = [Store.open(store).unit_samples]
    small = run.invoke(main, ["index", "--like", store, "--store", f"{store}-5", "--unit-samples", "64"])
    assert small.exit_code == 0, small.output
    sizes += [Store.open(f"{store}-{number}").unit_samples for number in (4, 5)]
    assert sizes == [192, 192, 64]
    nothing = run.invoke(main, ["index", shards, "--store", f"{store}-6", "--views", "2"])
    assert nothing.exit_code == 2
    assert "name a --policy" in nothing.output
    unsaid = run.invoke(main, ["index", shards, "--store", f"{store}-6", "--policy", "none"])
    assert unsaid.exit_code == 2
    assert "say how many --views" in unsaid.output


def test_moved_shards_are_found_and_other_shards_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(65, 64))
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "shards", moved)
    shutil.rmtree(tmp_path / "shards")
    run = CliRunner()
    gone = run.invoke(main, fill_words(store.path))
    assert gone.exit_code == 1
    assert "train-0000.tar" in gone.output
    found = run.invoke(main, [*fill_words(store.path), "--shards", str(moved / "*.tar")])
    assert found.exit_code == 0, found.output
    write_shard(moved / "train-0001.tar", [])
    other = run.invoke(main, ["verify", str(store.path), "--shards", str(moved / "*.tar"), "--workers", "0"])
    assert other.exit_code == 1
    assert "train-0001.tar" in other.output


@pytest.mark.parametrize("text", ["3", "2:9", "b:c", "2:2"])
def test_view_ranges_that_make_no_sense(tmp_path: Path, text: str) -> None:
    store = bright_store(tmp_path)
    result = CliRunner().invoke(main, [*fill_words(store.path), "--views", text])
    assert result.exit_code == 2
    assert "--views" in result.output


def test_an_error_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert result.output.startswith("error: there is no store at")
    assert result.output.count("\n") == 1
    with pytest.raises(StoreError):
        Store.open(tmp_path / "nothing")
