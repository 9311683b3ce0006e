"""Stage one by Ray: actors wherever a cluster has room, which claim units as any job does. This process only keeps them
alive: it hands out no work, so what is lost with it, or with a node, are the units in flight."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from teacher_cache.errors import DiskError, RankError, RenderError, StorageError, TeacherCacheError
from teacher_cache.fill import FillOptions, FillProgress, end_fill, fill
from teacher_cache.messages.shown import counted
from teacher_cache.processes.signals import Stopped, stop_signals
from teacher_cache.processes.timeouts import ACTOR_TIMEOUT_S
from teacher_cache.storage.place import ENDPOINTS
from teacher_cache.store.places import open_moved
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings

if TYPE_CHECKING:
    from ray.actor import ActorHandle

INSTALL = "pip install 'deit-teacher-cache[ray]'"
END_S = 10.0  # for the last actors to end by themselves
LOOK_S = 2.0  # between two looks at the store
# what one actor meets and others need not: its node's disk or network, its own processes
OWN = DiskError, RenderError, StorageError
DEATHS = 3  # of actors, for each that is wanted, without a unit committed meanwhile: then something else is wrong


@dataclass(frozen=True)
class ActorsWanted:
    """How many actors fill: fewer than `least` for timeout_s are too few; there are `most` where the cluster has room
    for so many. Each takes so many GPUs, and a CPU for each rendering process."""

    least: int
    most: int
    gpus: float
    timeout_s: float = ACTOR_TIMEOUT_S


@dataclass(frozen=True)
class ActorFill:
    """What an actor needs to know: which store is filled how. Places mean the same on every node, and are seen from
    `folder`, where this one was made."""

    store: str
    shards: tuple[str, ...]
    ops: str | None
    teacher: TeacherSettings
    options: FillOptions
    views: range
    folder: str = field(default_factory=os.getcwd)

    def run(self) -> int:
        """Claim and label units until all are committed. The number of units that it has committed."""
        with suppress(OSError):  # a node may lack it: whole paths and URLs are found all the same, others named
            os.chdir(self.folder)

        from teacher_cache.teacher.teacher import open_teacher
        from teacher_cache.terminal import say_aside, warn

        store = open_moved(self.store, self.shards, ops=self.ops, writable=True, cache=self.options.cache)
        teacher = open_teacher(
            self.teacher, num_classes=store.num_classes, view_size=store.policy.size, stored=store.teacher
        )
        options = replace(self.options, claim=True)
        return fill(store, teacher, options, self.views, warn=warn, say=say_aside)


@dataclass(eq=False)
class _Actor:
    """An actor as the driver sees it, with what it will answer: that it lives, and that all is filled."""

    handle: "ActorHandle"
    lives: Any
    filled: Any
    alive: bool = False


@dataclass(eq=False)
class _Crew:
    """The actors, the time since when too few live, and how many died since a unit was committed."""

    ray: Any
    start: Callable[[], _Actor]
    wanted: ActorsWanted
    actors: list[_Actor] = field(default_factory=list)
    enough_at: float = field(default_factory=time.monotonic)
    deaths: int = 0
    last_death: str = ""

    def keep(self) -> bool:
        """Start actors that lack, and take what they say. Whether one of them has found all filled.

        Raises what is wrong with the fill itself, as any actor would meet it; RankError where too few actors live.
        """
        while len(self.actors) < self.wanted.most:
            self.actors.append(self.start())
        coming = {actor.lives if not actor.alive else actor.filled: actor for actor in self.actors}
        ready, _ = self.ray.wait(list(coming), num_returns=len(coming), timeout=LOOK_S)
        for answer in ready:
            actor = coming[answer]
            try:
                self.ray.get(answer)
            except self.ray.exceptions.RayTaskError as error:
                cause = _cause(error)
                if not isinstance(cause, OWN):
                    raise cause from None
                self._bury(actor, cause)
                continue
            except self.ray.exceptions.RayError as error:  # its process or node is gone, or Ray has ended it
                self._bury(actor, error)
                continue
            if actor.alive:
                return True
            actor.alive = True
        living = sum(actor.alive for actor in self.actors)
        if living >= self.wanted.least:
            self.enough_at = time.monotonic()
        elif time.monotonic() - self.enough_at > self.wanted.timeout_s:
            died = f"; one died: {self.last_death}" if self.last_death else ""
            raise RankError(
                f"{counted(living, 'actor')} of {self.wanted.least} live since {self.wanted.timeout_s:g} s{died}: see "
                "`ray status` for what the cluster lacks, then run the same command again"
            )
        return False

    def let_go(self) -> None:
        """Give those that live time to see that all is filled."""
        living = [actor.filled for actor in self.actors if actor.alive]
        self.ray.wait(living, num_returns=len(living), timeout=END_S)

    def close(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor.handle)

    def _bury(self, actor: _Actor, error: Exception) -> None:
        self.actors.remove(actor)
        self.ray.kill(actor.handle)
        self.deaths += 1
        self.last_death = str(error).strip().partition("\n")[0]
        if self.deaths > DEATHS * self.wanted.most:
            raise RankError(
                f"{counted(self.deaths, 'actor')} died and no unit was committed meanwhile ({self.last_death}): see "
                "their logs in Ray's dashboard, then run the same command again"
            )


def fill_by_actors(
    work: ActorFill,
    wanted: ActorsWanted,
    *,
    on_start: Callable[[int], None] = lambda num_views: None,
    on_progress: Callable[[FillProgress], None] = lambda progress: None,
) -> int:
    """Fill a store by actors; those that die are replaced where there is room. The number of units that were missing.

    Raises what `fill` does, but for an actor's OWN troubles; RankError where fewer than wanted.least actors live for
    its time-out, or they die one after the other; Stopped after a signal.
    """
    store = open_moved(work.store, work.shards, ops=work.ops, writable=True, cache=work.options.cache)
    missing = store.missing_units(work.views)
    if missing:
        on_start(sum(map(store.layout.num_views, missing)))
        _keep_actors(store, work, wanted, on_progress)
    end_fill(store, work.views)
    return len(missing)


def _keep_actors(
    store: Store, work: ActorFill, wanted: ActorsWanted, on_progress: Callable[[FillProgress], None]
) -> None:
    """Have actors at work until one has found all filled."""
    views_before = _counts(store)
    with _cluster() as ray, stop_signals() as stop_asked:
        crew = _Crew(ray, _starter(ray, work, wanted), wanted)
        committed = 0
        try:
            while not crew.keep():
                if stop_asked():
                    raise Stopped("stopped: committed units are kept, units in flight are lost; run again to go on")
                progress = _counts(store) - views_before
                on_progress(FillProgress(*progress.tolist()))
                if progress[0] > committed:
                    committed, crew.deaths = int(progress[0]), 0
            crew.let_go()
        finally:
            crew.close()


def _counts(store: Store) -> np.ndarray:
    """(views, labelled, larger) of all that is committed, (3,) int64. Only records that are new are read."""
    sums = store.records.sums()
    labelled, skipped, larger = (sum(sums[name]) for name in ("labelled", "skipped", "larger"))
    return np.array([labelled + skipped, labelled, larger], np.int64)


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected to the cluster that RAY_ADDRESS names or that this machine is in, else one of this machine."""
    try:
        import ray
    except ImportError:
        raise RankError(f"--engine ray needs Ray: {INSTALL}, on every node") from None
    if ray.is_initialized():
        yield ray
        return
    # a server's address is no secret; credentials are in each node's own environment, and in no log of Ray's
    shared = {name: os.environ[name] for names in ENDPOINTS.values() for name in names if name in os.environ}
    try:
        ray.init(runtime_env={"env_vars": shared} if shared else None, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise RankError(f"no Ray cluster answers ({said}): check RAY_ADDRESS, and `ray status`") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _starter(ray: Any, work: ActorFill, wanted: ActorsWanted) -> Callable[[], _Actor]:
    """What starts an actor, which waits until the cluster has room for it; it is not restarted by Ray, whose restarts
    wait for the same node to come back."""

    class Fill:
        def lives(self) -> bool:
            return True

        def fill(self) -> int:
            return work.run()

    remote = ray.remote(Fill).options(
        num_cpus=max(1, work.options.workers), num_gpus=wanted.gpus, max_restarts=0, max_task_retries=0
    )

    def start() -> _Actor:
        handle = remote.remote()
        return _Actor(handle, handle.lives.remote(), handle.fill.remote())

    return start


def _cause(error: Exception) -> Exception:
    """What an actor met: ours as it is, of anything else the last line, which names it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, TeacherCacheError):
        return cause
    said = str(error).strip().splitlines()[-1]
    return RankError(f"an actor failed ({said}): see its log in Ray's dashboard, then run the same command again")
