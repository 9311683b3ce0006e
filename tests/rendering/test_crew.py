"""Who gets which task. What becomes of processes is in test_workers.py and processes/test_pool.py."""

import select
from dataclasses import replace

import numpy as np
import pytest

from teacher_cache.processes.pool import Connection
from teacher_cache.rendering.crew import AHEAD_BYTES, AHEAD_TASKS, QUEUED_PER_WORKER, Crew, Desk, RenderTask
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return bright_store(tmp_path_factory.mktemp("crew"), counts=(5,))


def tasks_of(store: Store, num: int) -> list[RenderTask]:
    return [RenderTask(number, store.index.place(0, 0), (0,)) for number in range(num)]


def far_tasks(store: Store, num: int, num_bytes: int) -> list[RenderTask]:
    """Of blocks of so many bytes, in a bucket."""
    place = store.index.place(0, 0)
    offsets = np.full_like(place.offsets, 512)
    sizes = np.full_like(place.sizes, num_bytes)
    far = replace(place, path="s3://bucket/x.tar", offsets=offsets, sizes=sizes)
    return [RenderTask(number, far, (0,)) for number in range(num)]


def serve(connection: Connection) -> None:
    """A worker that sends a task's id back, and keeps no slots."""
    desk = Desk(connection)
    while True:
        desk.send(0, 1, desk.next_task().id)


def hold(connection: Connection) -> None:
    """A worker that takes whatever it is given, and sends nothing."""
    desk = Desk(connection)
    while connection.poll(None):
        desk.empty_pipe()


def test_without_workers_the_parent_takes_tasks_in_order(store: Store) -> None:
    crew = Crew()
    assert crew.take() is None
    for task in tasks_of(store, 3):
        crew.submit(task)
    taken = [crew.take() for _ in range(4)]
    assert [None if task is None else task.id for task in taken] == [0, 1, 2, None]


def test_with_workers_the_parent_takes_none_however_many_wait(store: Store) -> None:
    crew = Crew(tasks_ahead=1)
    crew.hire(serve, num_slots=None)
    try:
        for task in tasks_of(store, 5):
            crew.submit(task)
        assert crew.take() is None
        found: list[int] = []
        while len(found) < 5:
            found += [sent.content for sent in crew.receive()]
            assert crew.take() is None
        assert found == list(range(5))
    finally:
        crew.close()


# -- what is far away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_bytes", "ahead"),
    [(1, AHEAD_TASKS), (AHEAD_BYTES // 4, 4), (AHEAD_BYTES // 2 - 1, 3), (AHEAD_BYTES, 1), (10 * AHEAD_BYTES, 1)],
)
def test_small_blocks_far_away_are_on_their_way_many_at_once(store: Store, num_bytes: int, ahead: int) -> None:
    """Beside the one that a worker has in hand, in a crew of workers as in the parent alone."""
    tasks = far_tasks(store, 100, num_bytes)
    parent = Crew()
    for task in tasks:
        parent.submit(task)
    assert parent.upcoming() == tasks[:ahead]
    assert parent.take() is tasks[0]
    assert parent.upcoming() == tasks[1 : 1 + ahead]

    crew = Crew()
    worker = crew.hire(hold, num_slots=None)
    try:
        for task in tasks:
            assert select.select([], [worker.child.connection], [], 30)[1], "the worker reads nothing"
            crew.submit(task)
        assert list(worker.tasks) == tasks[: 1 + ahead]
        assert crew.upcoming() == []
    finally:
        crew.close()


def test_blocks_far_away_are_given_out_in_order(store: Store) -> None:
    crew = Crew()
    crew.hire(serve, num_slots=None)
    try:
        for task in far_tasks(store, 100, 1):
            crew.submit(task)
        found: list[int] = []
        while len(found) < 100:
            found += [sent.content for sent in crew.receive()]
        assert found == list(range(100))
    finally:
        crew.close()


def test_local_blocks_are_not_given_out_before_their_turn(store: Store) -> None:
    tasks = tasks_of(store, 10)
    parent, crew = Crew(), Crew(tasks_ahead=3)
    worker = crew.hire(serve, num_slots=None)
    try:
        for task in tasks:
            parent.submit(task)
            crew.submit(task)
        assert parent.upcoming() == tasks[:1]
        assert list(worker.tasks) == tasks[:3]
    finally:
        crew.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_tasks_are_wanted_until_nobody_waits_for_one(store: Store, workers: int) -> None:
    def wanted(tasks: list[RenderTask]) -> int:
        """How many are submitted while more are wanted."""
        crew = Crew()
        try:
            for _ in range(workers):
                crew.hire(hold, num_slots=None)
            coming = iter(tasks)
            while crew.wants_tasks():
                crew.submit(next(coming))
                for worker in crew.workers:
                    assert select.select([], [worker.child.connection], [], 30)[1], "the worker reads nothing"
            return len(tasks) - len(list(coming))
        finally:
            crew.close()

    assert wanted(tasks_of(store, 200)) == (2 * (2 + QUEUED_PER_WORKER) if workers else QUEUED_PER_WORKER)
    far = wanted(far_tasks(store, 200, AHEAD_BYTES // 8))
    assert far == (2 * (1 + 8 + QUEUED_PER_WORKER) if workers else 8)
