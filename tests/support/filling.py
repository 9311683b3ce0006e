"""Filling small stores with the teachers of tests/support/teachers.py, in this process."""

from pathlib import Path

from teacher_cache.fill import FillOptions, fill
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import Teacher, open_teacher

TEACHERS = str(Path(__file__).with_name("teachers.py"))


def open_test_teacher(store: Store, name: str = "brightness", **settings: object) -> Teacher:
    chosen = TeacherSettings(spec=f"{TEACHERS}:{name}", device="cpu", **{"batch_size": 32, **settings})
    return open_teacher(chosen, num_classes=store.num_classes, view_size=store.policy.size, stored=store.teacher)


def fill_words(store: Path, *options: object, workers: int = 0) -> list[str]:
    """`fill` with its words, as the command line has them, by the brightness teacher."""
    teacher = ("--teacher", f"{TEACHERS}:brightness", "--device", "cpu", "--batch-size", 32)
    return [str(word) for word in ("fill", store, *teacher, "--workers", workers, *options)]


def fill_store(
    store: Store,
    name: str = "brightness",
    *,
    views: range | None = None,
    workers: int = 0,
    topk: int | None = None,
    tau: float | None = None,
    **options,
) -> int:
    return fill(
        store,
        open_test_teacher(store, name, topk=topk, tau=tau),
        FillOptions(workers=workers, **options),
        views or range(store.views),
    )
