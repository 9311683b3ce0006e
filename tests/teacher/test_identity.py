"""Who a teacher is: kept in a store as it always was, read once, and compared field by field."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from teacher_cache.errors import StoreError, TeacherError
from teacher_cache.store.published import attributes_document, read_published
from teacher_cache.store.store import Store
from teacher_cache.teacher.identity import DECIDING_FIELDS, TeacherIdentity, check_same_teacher, read_identity
from tests.support.filled_store import TOPK, make_store

REGNET = TeacherIdentity(
    name="regnety_160.deit_in1k (w.pt)",
    spec="regnety_160.deit_in1k",
    weights_sha256="0123456789abcdef",
    num_classes=1000,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    batch_size=256,
    dtype="bf16",
    device="NVIDIA H100 80GB HBM3",
    torch="2.14.1",
    cuda="13.0",
    libraries={"pillow": "12.0.0", "libjpeg": "3.1.2"},
)
KEPT = """{
 "name": "regnety_160.deit_in1k (w.pt)",
 "spec": "regnety_160.deit_in1k",
 "weights_sha256": "0123456789abcdef",
 "num_classes": 1000,
 "mean": [0.485, 0.456, 0.406],
 "std": [0.229, 0.224, 0.225],
 "input_size": null,
 "batch_size": 256,
 "dtype": "bf16",
 "compile": false,
 "topk": 0,
 "tau": null,
 "device": "NVIDIA H100 80GB HBM3",
 "torch": "2.14.1",
 "cuda": "13.0",
 "libraries": {"pillow": "12.0.0", "libjpeg": "3.1.2"}
}"""  # as stores have it since their first schema


def test_a_store_keeps_every_field_in_the_order_that_it_always_had(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    store.publish_teacher(REGNET)
    assert (store.path / "teacher" / "zarr.json").read_bytes() == attributes_document(json.loads(KEPT))
    assert Store.open(store.path).teacher == REGNET


def test_what_a_later_version_writes_besides_is_passed_over() -> None:
    assert read_identity({**json.loads(KEPT), "patience": 3}, "s/teacher") == REGNET


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", None, "name: input should be a valid string"),
        ("mean", [0.5, 0.5], "mean.2 is missing"),
        ("std", [0.5, 0.5, float("inf")], "inf is not a finite number"),
        ("batch_size", 0, "batch_size: input should be greater than or equal to 1"),
        ("dtype", "fp8", "dtype: input should be 'fp32', 'bf16' or 'fp16'"),
        ("topk", True, "topk: input should be a valid integer"),
        ("tau", 0.0, "tau: input should be greater than 0"),
        ("libraries", "pillow", "libraries: input should be a valid dictionary"),
    ],
)
def test_an_identity_that_makes_no_sense_is_named_with_its_place(name: str, value: Any, message: str) -> None:
    with pytest.raises(StoreError, match=f"^s/teacher: .*{message}"):
        read_identity({**json.loads(KEPT), name: value}, "s/teacher")


def test_a_teacher_is_read_once_and_while_there_is_none_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s")
    assert (store.teacher, store.topk, store.tau) == (None, 0, None)
    Store.open(store.path, writable=True).publish_teacher(TOPK)  # another job's
    assert (store.teacher, store.topk, store.tau) == (TOPK, 3, 2.0)
    reads = []
    monkeypatch.setattr("teacher_cache.store.store.read_published", lambda *of: reads.append(of) or read_published(*of))
    assert (store.teacher, store.topk, store.tau) == (TOPK, 3, 2.0)
    assert not reads


OTHERS: dict[str, Any] = {
    "weights_sha256": "f" * 64,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "input_size": 288,
    "batch_size": 64,
    "dtype": "fp16",
    "compile": True,
    "topk": 5,
    "tau": 2.0,
    "device": "NVIDIA H200",
}


@pytest.mark.parametrize("name", DECIDING_FIELDS)
def test_another_teacher_is_refused_by_each_field_that_decides(name: str) -> None:
    other = replace(REGNET, **{name: OTHERS[name]})
    found = OTHERS[name][:12] if name == "weights_sha256" else OTHERS[name]
    with pytest.raises(TeacherError) as refused:
        check_same_teacher(REGNET, other)
    assert f"whose {name} is " in str(refused.value)
    assert f"this teacher's {name} is {found}: " in str(refused.value)
    assert ("--devices any" in str(refused.value)) == (name == "device")
    assert ("index --like" in str(refused.value)) == (name in ("topk", "tau"))
    check_same_teacher(REGNET, other, may_differ=(name,))


def test_all_that_differs_is_told_at_once_and_what_decides_nothing_is_not() -> None:
    check_same_teacher(REGNET, replace(REGNET, name="r", spec="r", torch="2.6", cuda=None, libraries={}))
    with pytest.raises(TeacherError) as refused:
        check_same_teacher(REGNET, replace(REGNET, **OTHERS))
    assert str(refused.value).count("; the store was filled by regnety_160.deit_in1k") == len(DECIDING_FIELDS) - 1
