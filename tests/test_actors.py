"""Stage one by Ray's actors, on a cluster of this machine with two nodes."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from teacher_cache.actors import ActorFill, ActorsWanted, fill_by_actors
from teacher_cache.errors import AgreementError, RankError
from teacher_cache.fill import FillOptions, FillProgress
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from tests.support.bright_shards import bright_store
from tests.support.filled_store import files
from tests.support.filling import TEACHERS, fill_store
from tests.support.running import workers

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'deit-teacher-cache[ray]'")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, each with room for an actor."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
    paths = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)  # of the nodes
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
    made.add_node(num_cpus=1, object_store_memory=80_000_000)
    ray.init(address=made.address, logging_level="error", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()
    os.environ.pop("PYTHONPATH")
    if paths is not None:
        os.environ["PYTHONPATH"] = paths


def work(store: Store, teacher: str = "brightness", lease_s: float = 2) -> ActorFill:
    settings = TeacherSettings(spec=f"{TEACHERS}:{teacher}", device="cpu", batch_size=32)
    options = FillOptions(workers=0, lease_s=lease_s)
    return ActorFill(str(store.path), (), None, settings, options, range(store.views))


def test_actors_fill_a_store_though_a_node_goes(tmp_path: Path, cluster: Any) -> None:
    """And none comes in its place: every unit is in the store once, as an uninterrupted fill leaves it."""
    store = bright_store(tmp_path, counts=(320,) * 8, views=16)
    whole = bright_store(tmp_path, name="whole", views=16)
    fill_store(whole)
    said: list[FillProgress] = []
    totals: list[int] = []
    lost = threading.Event()

    def lose_a_node() -> None:
        while not store.committed().any():
            time.sleep(0.05)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        lost.set()

    thread = threading.Thread(target=lose_a_node)
    thread.start()
    wanted = ActorsWanted(1, 2, gpus=0, timeout_s=120)
    filled = fill_by_actors(work(store), wanted, on_start=totals.append, on_progress=said.append)
    thread.join()
    assert lost.is_set()
    assert filled == 8 * 5 * 8
    assert totals == [8 * 320 * 16]
    assert said[-1].views <= totals[0]
    assert files(store.path) == files(whole.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "store", "whole"]
    assert fill_by_actors(work(store), wanted) == 0


def test_places_are_seen_from_where_the_command_runs(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from where a node was started: the store's, shards', and the teacher's file."""
    bright_store(tmp_path, counts=(64,))
    (tmp_path / "shards").rename(tmp_path / "moved")
    (tmp_path / "mine.py").write_bytes(Path(TEACHERS).read_bytes())
    monkeypatch.chdir(tmp_path)
    settings = TeacherSettings(spec="mine.py:brightness", device="cpu", batch_size=32)
    fill = ActorFill("store", ("moved/*.tar",), None, settings, FillOptions(workers=0), range(4))
    assert fill_by_actors(fill, ActorsWanted(1, 1, gpus=0)) == 2
    assert not Store.open("store").missing_units()


def test_what_is_wrong_with_the_fill_is_said_as_one_process_says_it(tmp_path: Path, cluster: Any) -> None:
    store = bright_store(tmp_path)
    with pytest.raises(AgreementError, match=r"agree with the ground truth no better than chance"):
        fill_by_actors(work(store, "constant"), ActorsWanted(1, 1, gpus=0))
    assert not store.committed().any()


def test_an_actor_whose_own_process_died_is_replaced(tmp_path: Path, cluster: Any) -> None:
    store = bright_store(tmp_path, counts=(320,))
    killed = threading.Event()

    def kill_a_worker() -> None:
        while not killed.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    if path.read_bytes().startswith(b"ray::Fill") and (found := workers(int(path.parent.name))):
                        os.kill(found.pop(), signal.SIGKILL)
                        killed.set()
                        return
            time.sleep(0.05)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    fill = work(store)
    try:
        assert fill_by_actors(replace(fill, options=replace(fill.options, workers=1)), ActorsWanted(1, 1, gpus=0)) > 0
    finally:
        assert killed.is_set()
        killed.set()
        thread.join()
    assert not store.missing_units()


def test_where_no_actor_lives_it_ends(tmp_path: Path, cluster: Any) -> None:
    store = bright_store(tmp_path)
    with pytest.raises(RankError, match=r"^0 actors of 1 live since 1 s: see `ray status` for what the cluster lacks"):
        fill_by_actors(work(store), ActorsWanted(1, 1, gpus=1, timeout_s=1))


def test_actors_that_die_one_after_the_other_end_it(tmp_path: Path, cluster: Any) -> None:
    store = bright_store(tmp_path)
    ended = threading.Event()

    def kill_actors() -> None:
        while not ended.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                if path.read_bytes().startswith(b"ray::Fill"):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    thread = threading.Thread(target=kill_actors)
    thread.start()
    try:
        with pytest.raises(RankError, match=r"actors died and no unit was committed meanwhile \("):
            fill_by_actors(work(store), ActorsWanted(1, 1, gpus=0))
    finally:
        ended.set()
        thread.join()
