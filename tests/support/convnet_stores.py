"""Stores that the convnet of tests/support/teachers.py has filled: its labels depend on every pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teacher_cache.fill import FillOptions, fill
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from tests.support.bright_shards import bright_store
from tests.support.filling import TEACHERS, open_test_teacher

CONVNET = f"{TEACHERS}:convnet"


def convnet_store(folder: Path, *, counts: Sequence[int] = (130, 64, 1, 65), **settings: Any) -> Store:
    """A store that the convnet has filled at batches of 32."""
    store = bright_store(folder, counts=counts)
    teacher = open_test_teacher(store, "convnet", **settings)
    fill(store, teacher, FillOptions(workers=0, allow_low_agreement=True), range(store.views))
    return Store.open(store.path)


def online(**settings: Any) -> TeacherSettings:
    """The same teacher, asked while a student trains."""
    return TeacherSettings(spec=CONVNET, **settings)
