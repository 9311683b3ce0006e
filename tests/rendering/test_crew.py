"""Who gets which task. What becomes of processes is in test_workers.py and test_processes.py."""

import pytest

from teacher_cache.processes.pool import Connection
from teacher_cache.rendering.crew import Crew, Desk, RenderTask
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return bright_store(tmp_path_factory.mktemp("crew"), counts=(5,))


def tasks_of(store: Store, num: int) -> list[RenderTask]:
    return [RenderTask(number, store.index.place(0, 0), (0,)) for number in range(num)]


def serve(connection: Connection) -> None:
    """A worker that sends a task's id back, and keeps no slots."""
    desk = Desk(connection)
    while True:
        desk.send(0, 1, desk.next_task().id)


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
