"""A view is a function: its digest is the same wherever, whenever and in whose company it is rendered."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from student.loader import ViewLoader
from teacher_cache.rendering.choice import render_all
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool, RenderTask
from teacher_cache.replay.block import replay
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store, small_policy
from tests.support.forked import Forks

VIEWS = 8
BLOCKS = ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0))  # (shard, block): two whole ones, one of 2 samples, one of 64, of one
POLICY = small_policy("rand_augment.num_ops=2", "erase.probability=0.5")  # every purpose's stream is drawn from

Digests = dict[tuple[int, int, int], int]  # (shard, block, view) -> digest
relaxed = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Rendered:
    store: Store
    digests: Digests
    pixels: dict[tuple[int, int], np.ndarray]  # (sample, view) -> pixels


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Every view rendered by itself, one decode a view."""
    store = bright_store(tmp_path_factory.mktemp("views"), counts=(130, 64, 1), policy=POLICY, views=VIEWS, group=VIEWS)
    digests: Digests = {}
    pixels: dict[tuple[int, int], np.ndarray] = {}
    for shard, number in BLOCKS:
        block = read_block(store.index.place(shard, number))
        for view in range(VIEWS):
            (replayed,) = replay(store.policy, store.seed, block, [view])
            digests[shard, number, view] = replayed.digest
            for position, picture in enumerate(replayed.pixels):
                pixels[int(store.index.starts[shard]) + 64 * number + position, view] = picture
    assert len(set(digests.values())) == len(digests)
    return Rendered(store, digests, pixels)


@pytest.fixture(scope="module", params=[0, 1, 3])
def pool(request: pytest.FixtureRequest, alone: Rendered) -> Iterator[RenderPool]:
    with RenderPool(PoolSettings(alone.store.policy, alone.store.seed, workers=request.param)) as opened:
        yield opened


requests = st.lists(
    st.tuples(st.sampled_from(BLOCKS), st.lists(st.integers(0, VIEWS - 1), min_size=1, max_size=VIEWS, unique=True)),
    min_size=1,
    max_size=4,
)


@relaxed
@given(asked=requests)
def test_any_views_of_any_blocks_in_any_order_and_number_of_workers(
    alone: Rendered, pool: RenderPool, asked: list[tuple[tuple[int, int], list[int]]]
) -> None:
    tasks = [
        RenderTask(number, alone.store.index.place(shard, block), tuple(views))
        for number, ((shard, block), views) in enumerate(asked)
    ]
    seen = 0
    for rendered in render_all(pool, tasks):
        shard, block = asked[rendered.task.id][0]
        assert rendered.block.digest == alone.digests[shard, block, rendered.view]
        seen += 1
    assert seen == sum(len(views) for _, views in asked)


@relaxed
@given(
    batch_size=st.sampled_from([1, 64]),
    repeats=st.sampled_from([1, 3, VIEWS]),
    order=st.sampled_from(["together", "apart"]),
    seed=st.integers(0, 3),
    start=st.integers(0, 2),
    pool_batches=st.integers(1, 4),
)
def test_any_batch_size_order_seed_and_start(
    alone: Rendered, batch_size: int, repeats: int, order: str, seed: int, start: int, pool_batches: int
) -> None:
    loader = ViewLoader(
        alone.store,
        batch_size,
        epochs=1,
        repeats=repeats,
        order=order,
        seed=seed,
        start=(0, start),
        pool_batches=pool_batches,
        workers=0,
        labels=False,
    )
    with loader:
        for step, batch in zip(range(start, start + 3), loader, strict=False):
            assert batch.step == step
            for picture, sample, view in zip(batch.views.numpy(), batch.samples, batch.view_ids, strict=True):
                assert np.array_equal(picture, alone.pixels[int(sample), int(view)])


@pytest.fixture(scope="module")
def ranks(alone: Rendered, forks: Forks) -> Iterator[list[Connection]]:
    """Two processes of one gloo group, each with a pipe."""
    with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/socket", "AF_UNIX") as listener:
        processes = forks.start_ranks("tests.support.replaying_rank", [str(listener.address), str(alone.store.path)], 2)
        connections = [listener.accept() for _ in processes]
        yield connections
        for connection in connections:
            connection.send(None)
        assert [process.wait() for process in processes] == [0, 0], processes[0].output


@relaxed
@given(asked=requests)
def test_two_gloo_ranks(
    alone: Rendered, ranks: list[Connection], asked: list[tuple[tuple[int, int], list[int]]]
) -> None:
    for connection in ranks:
        connection.send(asked)
    for connection in ranks:
        first, second = connection.recv()
        assert first == second
        assert first == {place: alone.digests[place] for place in first}
        assert len(first) >= 1
