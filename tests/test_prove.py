"""A teacher proves itself: answers that depend on a view alone, and are today what they were at binding."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from teacher_cache.cli import main
from teacher_cache.errors import DriftError, StoreError, TeacherError
from teacher_cache.fill import FillOptions, fill
from teacher_cache.prove import check_same_answers
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool
from teacher_cache.replay import block
from teacher_cache.replay.native.library import SWITCH
from teacher_cache.store.labels import skipped_samples
from teacher_cache.store.proof import describe_build
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit, UnitValues
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import Teacher, open_teacher
from tests.support.bright_shards import bright_store, spoil_image
from tests.support.filled_store import files, recommit
from tests.support.filling import TEACHERS, fill_store, open_test_teacher

A_VIEW = r"shard train-0000\.tar, key s\d{5}, view \d"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("restless", "when it is asked a second time"),
        ("jealous", "when the views of its batch change places"),
        ("sociable", "when other views are beside it"),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_teacher_that_depends_on_more_than_the_view_is_refused(
    tmp_path: Path, name: str, how: str, dtype: str
) -> None:
    store = bright_store(tmp_path)
    before = files(store.path)
    with pytest.raises(
        TeacherError, match=rf"^{A_VIEW}: teacher .*:{name} gives another answer {how} \(label \d, then"
    ):
        fill(
            store,
            open_test_teacher(store, name, dtype=dtype),
            FillOptions(workers=0, allow_low_agreement=True),
            range(store.views),
        )
    assert files(store.path) == before


@pytest.mark.parametrize("counts", [(1,), (2, 3), (130,)])
def test_a_steady_teacher_passes_however_few_views_there_are(tmp_path: Path, counts: tuple[int, ...]) -> None:
    warnings: list[str] = []
    store = bright_store(tmp_path, counts=counts, views=1, group=1)
    teacher = open_test_teacher(store, "convnet")
    fill(store, teacher, FillOptions(workers=0, allow_low_agreement=True), range(1), warn=warnings.append)
    assert not [warning for warning in warnings if "logits" in warning]
    proof = store.proofs.read(teacher.identity.device)
    assert proof is not None
    assert len(proof.labels) == len(proof.logits) == min(32, counts[0])
    assert proof.labels.tolist() == store.read_labels(Unit(0, 0, 0))[: len(proof.labels), 0].tolist()


def edited_teacher(folder: Path, *, roll: int, centre: float = 0.5) -> str:
    """A model file of the same weights whatever roll is: the edit is in its code."""
    file = folder / "model.py"
    file.write_text(
        f"""
import torch
from tests.support.teachers import Brightness

class Edited(Brightness):
    def forward(self, images):
        return super().forward(images).roll({roll}, dims=1) * {2 * centre}

def teacher(num_classes):
    return Edited(num_classes)
"""
    )
    return f"{file}:teacher"


def open_edited(store: Store, spec: str) -> Teacher:
    settings = TeacherSettings(spec=spec, device="cpu", batch_size=32)
    return open_teacher(settings, num_classes=10, view_size=store.policy.size, stored=store.teacher)


def fill_edited(store: Store, spec: str, views: range, warnings: list[str] | None = None) -> None:
    warn = (lambda message: None) if warnings is None else warnings.append
    fill(store, open_edited(store, spec), FillOptions(workers=0), views, warn=warn)


def test_an_edited_model_file_with_the_same_weights_is_found(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_edited(store, edited_teacher(tmp_path, roll=0), range(2))
    before = files(store.path)
    said = (
        rf"^32 of 32 labels are not what the teacher gave when {re.escape(str(store.path))} was bound to it, "
        rf"first {A_VIEW}: (\d) then \(top-2 margin [0-9.e-]+\), (\d) now \(top-2 margin [0-9.e-]+\); bound with "
        rf"torch {re.escape(torch.__version__)}, .*; here torch {re.escape(torch.__version__)}, .*: use the code and"
    )
    with pytest.raises(TeacherError, match=said):
        fill_edited(store, edited_teacher(tmp_path, roll=1), range(4))
    assert files(store.path) == before
    warnings: list[str] = []
    fill_edited(store, edited_teacher(tmp_path, roll=0), range(4), warnings)
    assert warnings == []
    assert not store.missing_units()


def test_other_logits_with_the_same_labels_are_named_and_noted(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_edited(store, edited_teacher(tmp_path, roll=0), range(2))
    warnings: list[str] = []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)  # another build, which a note can tell
        fill_edited(store, edited_teacher(tmp_path, roll=0, centre=0.5000001), range(4), warnings)
    finally:
        torch.set_num_threads(threads)
    assert len(warnings) == 1
    assert "every label is the same; bound with torch" in warnings[0]
    notes = {build["threads"]: build["logits"] for build in store.proofs.builds}
    assert notes[threads] == "the proof's own"
    assert re.match(r"differ from the proof's by up to [0-9.e-]+ in \d+ of 32 views", notes[threads + 1])


def test_other_logits_are_refused_where_probabilities_are_stored(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill(
        store,
        open_teacher(
            TeacherSettings(spec=edited_teacher(tmp_path, roll=0), device="cpu", batch_size=32, topk=3),
            num_classes=10,
            view_size=store.policy.size,
            stored=None,
        ),
        FillOptions(workers=0),
        range(2),
    )
    with pytest.raises(TeacherError, match="so the stored probabilities would be others"):
        fill_edited(store, edited_teacher(tmp_path, roll=0, centre=1.0), range(4))


def test_a_committed_batch_is_relabelled_wherever_it_lies(tmp_path: Path) -> None:
    """The proof's unit is sound, another one holds other labels under a fitting record: drawings find it."""
    store = bright_store(tmp_path, counts=(64, 64), views=2)
    fill_store(store, "brightness")
    teacher = open_test_teacher(store)
    wrong = Unit(1, 0, 0)
    values, counts = store.read_unit(wrong), store.records.read_one(wrong).counts
    changed = values.labels.copy()
    changed[changed >= 0] = (changed[changed >= 0] + 1) % 10
    recommit(store, wrong, UnitValues(changed, values.digests), counts)
    said: list[str] = []
    for draw in range(12):
        with RenderPool(PoolSettings(store.policy, store.seed, workers=0)) as pool:
            try:
                check_same_answers(store, teacher, pool, lambda message: None, draw)
            except TeacherError as error:
                said.append(str(error))
    assert 0 < len(said) < 12
    for each in said:
        assert re.search(r"labels drawn from .* are not this teacher's, first shard train-0001\.tar, key", each)
        assert "is stored, it says" in each


def test_other_pixels_are_drift_not_another_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    monkeypatch.setenv(SWITCH, "off")  # what is changed is NumPy's way
    real = block.render_pixels
    monkeypatch.setattr(block, "render_pixels", lambda *arguments: 255 - real(*arguments))
    with pytest.raises(DriftError, match=r"shard train-0000\.tar, block 0, view 0: the replayed pixels are not those"):
        fill_store(store)


def test_a_store_without_its_proof_is_refused(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    for folder in store.path.glob("teacher/device-*"):
        shutil.rmtree(folder)
    with pytest.raises(StoreError, match="holds no proof of its teacher"):
        fill_store(store)


def test_a_flipped_bit_in_a_proof_is_found(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    device = store.proofs.devices[0]
    (chunk,) = store.path.glob("teacher/device-*/proof_logits/c/0/0")
    sound = chunk.read_bytes()
    for place in range(0, len(sound), 37):
        chunk.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(StoreError, match=r"proof in \S+ cannot be read"):
            store.proofs.read(device)


def test_a_new_device_leaves_a_proof_of_its_own_and_tells_what_differs(tmp_path: Path) -> None:
    store = bright_store(tmp_path, any_device=True)
    fill_edited(store, edited_teacher(tmp_path, roll=0), range(2))
    warnings: list[str] = []
    teacher = open_edited(store, edited_teacher(tmp_path, roll=1))  # stands for another device that rounds otherwise
    teacher.identity = replace(teacher.identity, device="Another Device")
    fill(store, teacher, FillOptions(workers=0), range(4), warn=warnings.append)
    assert any(re.match(r"32 of 32 labels differ on this device; their top-2 margins: median", w) for w in warnings)
    assert "Another Device" in store.proofs.devices
    own = store.proofs.read("Another Device")
    assert own is not None
    again = open_edited(store, edited_teacher(tmp_path, roll=2))
    again.identity = replace(again.identity, device="Another Device")
    store.extend(6)
    with pytest.raises(TeacherError, match="32 of 32 labels are not what the teacher gave"):
        fill(store, again, FillOptions(workers=0), range(6))


def test_status_shows_every_build(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store, views=range(2))
    (build,) = store.proofs.builds
    assert (build["torch"], build["threads"], build["cuda"]) == (torch.__version__, torch.get_num_threads(), None)
    said = CliRunner().invoke(main, ["status", str(store.path)])
    assert said.exit_code == 0, said.output
    assert "filled with" in said.output
    assert f"torch {torch.__version__}" in said.output


def test_a_build_is_described_in_one_line() -> None:
    build = {
        "torch": "2.14.1",
        "cuda": "13.0",
        "cudnn": 91002,
        "driver": "580.65",
        "device": "NVIDIA H100",
        "threads": 8,
    }
    assert describe_build(build) == ("torch 2.14.1, CUDA 13.0, cuDNN 91002, driver 580.65, NVIDIA H100, 8 CPU threads")


def test_proofs_do_not_depend_on_which_views_come_first(tmp_path: Path) -> None:
    proofs = []
    for name, views in (("first", range(0, 2)), ("last", range(2, 4))):
        store = bright_store(tmp_path, name=name)
        fill_store(store, "convnet", views=views, allow_low_agreement=True)
        proof = store.proofs.read(store.proofs.devices[0])
        assert proof is not None
        proofs.append(proof)
    np.testing.assert_array_equal(proofs[0].logits, proofs[1].logits)
    assert proofs[0].unit == proofs[1].unit == Unit(0, 0, 0)


def test_the_command_line_tells_it_in_one_line(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    command = [
        "fill",
        str(store.path),
        "--teacher",
        f"{TEACHERS}:sociable",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    said = CliRunner().invoke(main, command)
    assert said.exit_code == 1
    assert re.match(rf"error: {A_VIEW}: teacher ", said.output.splitlines()[-1])


def test_a_unit_of_which_all_is_skipped_proves_nothing_and_stops_nothing(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(3,))
    for sample in range(3):
        spoil_image(store, sample)
    for views in (range(2), range(4)):
        teacher = open_test_teacher(store)
        fill(store, teacher, FillOptions(workers=0, skip_bad=True, allow_low_agreement=True), views)
    assert not store.missing_units()
    assert skipped_samples(store).tolist() == [0, 1, 2]
