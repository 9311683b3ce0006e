"""What teacher/ says of proofs, devices and builds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from teacher_cache.errors import StoreError
from teacher_cache.store import proof as module
from teacher_cache.store.proof import Proof, describe_build, device_folder
from teacher_cache.store.published import SEAL, attributes_document
from teacher_cache.store.store import Store
from tests.support.filled_store import BUILD, TOPK, drawn_proof, files, make_store


def equal(one: Proof | None, two: Proof) -> bool:
    assert one is not None
    same = (one.unit, one.replays, dict(one.build)) == (two.unit, two.replays, dict(two.build))
    return same and (one.labels == two.labels).all() and one.logits.tobytes() == two.logits.tobytes()


def test_a_proof_is_read_as_it_was_bound(tmp_path: Path) -> None:
    store, proof = make_store(tmp_path / "s"), drawn_proof()
    assert store.proofs.first() is None
    store.publish_teacher(TOPK, proof)
    opened = Store.open(store.path)
    assert equal(opened.proofs.read(TOPK.device), proof)
    assert equal(opened.proofs.first(), proof)
    assert opened.proofs.devices == [TOPK.device]
    assert opened.proofs.builds == [BUILD | {"logits": "the proof's own"}]
    assert opened.proofs.read("another device") is None


def test_the_first_proof_of_a_device_stays(tmp_path: Path) -> None:
    store, proof = make_store(tmp_path / "s", any_device=True), drawn_proof()
    store.publish_teacher(TOPK, proof)
    store.proofs.publish("cuda", drawn_proof(3))
    before = files(store.path)
    store.proofs.publish("cuda", drawn_proof(4))
    store.proofs.publish("cuda")
    store.proofs.publish(TOPK.device, drawn_proof(4))
    assert files(store.path) == before
    assert equal(store.proofs.read("cuda"), drawn_proof(3))
    assert store.proofs.devices == sorted(["cuda", TOPK.device])


def test_a_device_may_be_there_without_a_proof(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", any_device=True)
    store.publish_teacher(TOPK)
    store.proofs.publish("cuda")
    assert store.proofs.devices == ["cuda"]
    assert store.proofs.read("cuda") is None
    assert store.proofs.first() is None


def test_each_build_is_noted_once(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    store.publish_teacher(TOPK)
    store.proofs.note_build(BUILD, "equal to the proof's")
    store.proofs.note_build(BUILD, "differ")
    store.proofs.note_build(BUILD | {"threads": 2}, "differ")
    assert [(build["threads"], build["logits"]) for build in store.proofs.builds] == [
        *((2, "differ"), (8, "equal to the proof's"))
    ]


def test_a_store_opened_for_reading_is_not_written(tmp_path: Path) -> None:
    make_store(tmp_path / "s").publish_teacher(TOPK, drawn_proof())
    proofs = Store.open(tmp_path / "s").proofs
    before = files(tmp_path)
    for write in (lambda: proofs.publish("cuda", drawn_proof()), lambda: proofs.note_build(BUILD, "equal")):
        with pytest.raises(StoreError, match="was opened for reading: open it with writable=True"):
            write()
    assert files(tmp_path) == before


def test_of_many_logits_the_first_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM", 4 * 4 * 2 + 1)
    proof = drawn_proof()
    assert proof.logits.shape == (2, 4)
    assert len(proof.labels) == 5
    monkeypatch.setattr(module, "ROOM", 1)
    assert drawn_proof().logits.shape == (1, 4)


def test_a_damaged_proof_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    store.publish_teacher(TOPK, drawn_proof())
    chunk = store.path / device_folder(TOPK.device) / "proof_labels" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"the teacher's proof in \S+ cannot be read \(.*\): restore it from a copy"):
        store.proofs.read(TOPK.device)
    chunk.unlink()
    with pytest.raises(StoreError, match="0 of 1 chunk are there"):
        store.proofs.first()


def test_builds_are_described_by_what_they_have() -> None:
    assert describe_build(BUILD) == "torch 2.14.1, cpu: avx512, 8 CPU threads"
    cuda = BUILD | {"cuda": "13.0", "cudnn": 91002, "driver": "580.65", "device": "NVIDIA H100"}
    assert describe_build(cuda) == "torch 2.14.1, CUDA 13.0, cuDNN 91002, driver 580.65, NVIDIA H100, 8 CPU threads"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"replays": [[0, 0, "7", [[1]]]]}, "[[1]] are no numbers"),
        ({"replays": [[[1], 0, "7", []]]}, "[[1], 0] are no numbers"),
        ({"replays": [[0, True, "7", []]]}, "[0, True] are no numbers"),
        ({"replays": [[0, -1, "7", []]]}, "[0, -1] are no numbers"),
        ({"replays": [[0, 0, 7, []]]}, "cannot be read"),
        ({"replays": []}, "proof_labels of"),
        ({"unit": [0, "1", 0]}, "[0, '1', 0] are no numbers"),
        ({"build": "x"}, "its build is 'x'"),
    ],
)
def test_a_proof_must_mean_something_though_its_hash_fits(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    store = make_store(tmp_path / "s")
    store.publish_teacher(TOPK, drawn_proof())
    file = store.path / device_folder(TOPK.device) / "zarr.json"
    attributes = json.loads(file.read_text())["attributes"]
    del attributes[SEAL]
    file.write_bytes(attributes_document(attributes | changes))
    with pytest.raises(StoreError, match=rf"the teacher's proof in .*{re.escape(said)}.*: restore it from a copy"):
        Store.open(store.path).proofs.read(TOPK.device)
