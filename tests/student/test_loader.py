"""The plan made real: the order of training, exact pixels and labels, and refusals before the first step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from student.cli import main
from student.loader import Batch, ViewLoader, skipped_by_block
from student.plan import pass_blocks
from student.pool import PoolMemory
from teacher_cache.errors import DriftError, ImageError, MissingLabelError, PlanError, StoreError
from teacher_cache.replay import BLOCK_SAMPLES, block, render
from teacher_cache.replay.block import ReplayedBlock, replay
from teacher_cache.replay.decode import decode_part
from teacher_cache.replay.jpeg_parts import JpegPart
from teacher_cache.replay.mix import LAMBDA_ONE
from teacher_cache.replay.native.library import SWITCH
from teacher_cache.shards.read import read_block
from teacher_cache.store.store import Store
from teacher_cache.store.unit import Unit
from tests.support.bright_shards import bright_store, change_pixel, small_policy, spoil_image
from tests.support.filling import fill_store, open_test_teacher
from tests.support.images import marked_jpeg, picture
from tests.support.shard_files import write_shard
from tests.support.small_runs import SMALL, filled_store, student

Item = tuple[int, int]  # sample, view


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Shards of 130, 64, 1 and 65 samples, 4 views in groups of 2. Tests leave it as it is."""
    return filled_store(tmp_path_factory.mktemp("filled"))


@pytest.fixture(scope="module")
def soft_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same shards, with four probabilities at tau 2 of a teacher that looks at every pixel."""
    store = bright_store(tmp_path_factory.mktemp("soft"))
    fill_store(store, "convnet", topk=4, tau=2.0, allow_low_agreement=True)
    return Store.open(store.path)


@pytest.fixture(scope="module")
def half_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Shards of 66, 31, 1 and 32 samples: for what is loaded many times. Tests leave it as it is."""
    return filled_store(tmp_path_factory.mktemp("half"), counts=(66, 31, 1, 32))


def make_loader(store: Store, batch_size: int = 24, **options: Any) -> ViewLoader:
    return ViewLoader(store, batch_size, **{"epochs": 3, "workers": 0, "pool_batches": 2, **options})


def load(store: Store, **options: Any) -> list[Batch]:
    with make_loader(store, **options) as loader:
        return list(loader)


def fields(batch: Batch) -> tuple[Any, ...]:
    soft = () if batch.soft is None else (batch.soft.classes, batch.soft.probabilities, batch.soft.tail)
    tensors = (batch.views, batch.class_pairs, batch.lambdas, batch.labels, batch.samples, batch.view_ids, *soft)
    return (batch.epoch, batch.step, *(None if tensor is None else tensor.numpy().tobytes() for tensor in tensors))


def items(batches: Sequence[Batch], epoch: int | None = None) -> list[Item]:
    return [
        item
        for batch in batches
        if epoch in (None, batch.epoch)
        for item in zip(batch.samples.tolist(), batch.view_ids.tolist(), strict=True)
    ]


def replayed(store: Store, skipped: frozenset[int] = frozenset()) -> dict[tuple[int, int, int], ReplayedBlock]:
    """Every block of a store at every view, by the path that stage one takes; skipped: global sample numbers."""
    found = {}
    for shard in range(store.index.num_shards):
        start = int(store.index.starts[shard])
        for number in range(store.index.num_blocks(shard)):
            first = start + number * BLOCK_SAMPLES
            in_block = frozenset(s - first for s in skipped if first <= s < first + BLOCK_SAMPLES)
            block = read_block(store.index.place(shard, number, in_block))
            for view in replay(store.policy, store.seed, block, range(store.views)):
                found[shard, number, view.view] = view
    return found


def check_batches(store: Store, batches: Sequence[Batch], skipped: frozenset[int] = frozenset()) -> None:
    """Every view, pair, lambda and label of the batches against stage one's replay and the store."""
    blocks = replayed(store, skipped)
    for batch in batches:
        for row, (sample, view) in enumerate(items([batch])):
            shard = store.index.shard_of(sample)
            position = sample - int(store.index.starts[shard])
            number, place = divmod(position, BLOCK_SAMPLES)
            block = blocks[shard, number, view]
            assert np.array_equal(batch.views[row].numpy(), block.pixels[place])
            assert batch.class_pairs[row].tolist() == block.class_pairs[place].tolist()
            assert batch.class_pairs[row, 0] == store.index.classes[sample]
            assert batch.lambdas[row] * LAMBDA_ONE == block.lambdas[place]
            if batch.labels is not None:
                unit = Unit(shard, position // store.unit_samples, view // store.group)
                label = store.read_labels(unit)[position % store.unit_samples, view % store.group]
                assert batch.labels[row] == label


# -- the order of training -----------------------------------------------------------------------------------------


def test_any_number_of_workers_trains_in_the_same_order(store: Store) -> None:
    options: dict[str, Any] = {"repeats": 2, "seed": 5}
    alone = load(store, **options)
    for workers in (1, 3):
        with make_loader(store, workers=workers, **options) as loader:
            assert [fields(batch) for batch in loader] == [fields(batch) for batch in alone]
    assert len(alone) == sum(make_loader(store, **options).steps(epoch) for epoch in range(3))


@pytest.mark.parametrize("order", ["apart", "together"])
def test_a_start_in_the_middle_gives_the_very_next_batch(half_store: Store, order: str) -> None:
    options: dict[str, Any] = {"repeats": 2, "order": order, "epochs": 2}
    whole = [fields(batch) for batch in load(half_store, **options)]
    steps = make_loader(half_store, **options).steps(0)
    for done in range(len(whole) + 1):
        start = divmod(done, steps) if done < 2 * steps else (2, 0)
        assert [fields(batch) for batch in load(half_store, start=start, **options)] == whole[done:]


def test_batches_are_what_stage_one_rendered_and_labelled(store: Store) -> None:
    batches = load(store, repeats=2, epochs=4)
    check_batches(store, batches)
    assert {view for _, view in items(batches)} == {0, 1, 2, 3}
    assert any((batch.lambdas < 1).any() for batch in batches), "nothing is mixed: the test shows little"
    first = batches[0]
    assert (first.views.dtype, first.labels is not None and first.labels.dtype) == (torch.uint8, torch.int64)
    assert first.views.shape == (24, 8, 8, 3)


def test_an_epoch_is_the_same_set_for_one_and_two_ranks(store: Store) -> None:
    options: dict[str, Any] = {"repeats": 2, "epochs": 4}
    alone = load(store, **options)
    ranks = [load(store, rank=rank, world_size=2, **options) for rank in range(2)]
    for epoch in range(4):
        ours = items(ranks[0], epoch) + items(ranks[1], epoch)
        assert sorted(ours) == sorted(items(alone, epoch))
        assert len(set(ours)) == len(ours)
    assert len(ranks[0]) == len(ranks[1]) == len(alone)
    assert len(ranks[0][0].samples) == 12


def test_a_pass_shows_each_view_once_and_views_in_use_bound_it(store: Store) -> None:
    batches = load(store, repeats=2, epochs=4, views_in_use=3)
    for number, views in ((0, {0, 1}), (1, {2, 0})):
        shown = items(batches, 2 * number) + items(batches, 2 * number + 1)
        assert len(set(shown)) == len(shown) > 2 * 260 - 2 * 24 - 2
        assert {view for _, view in shown} == views


@pytest.mark.parametrize("pool_batches", [0, 1, 40])
def test_pools_of_no_batch_and_of_more_than_an_epoch(store: Store, pool_batches: int) -> None:
    options: dict[str, Any] = {"pool_batches": pool_batches, "repeats": 2, "epochs": 3, "batch_size": 32}
    batches = load(store, **options)
    check_batches(store, batches)
    assert len(items(batches)) == len(batches) * 32 == 3 * 8 * 32


def test_the_next_epoch_is_rendered_while_the_last_batches_wait(store: Store) -> None:
    loader = make_loader(store, epochs=2, batch_size=64, pool_batches=2)
    in_flight = []
    for batch in loader:
        assert loader._pool is not None
        in_flight.append((batch.epoch, batch.step, loader._pool.pending))
    assert in_flight[3][:2] == (0, 3)
    assert in_flight[3][2] > 0, "nothing of the second epoch was begun when the first ended"
    assert in_flight[7] == (1, 3, 0)


def test_iterating_again_begins_again(store: Store) -> None:
    with make_loader(store, epochs=1) as loader:
        first = [fields(batch) for batch, _ in zip(loader, range(3), strict=False)]
        assert [fields(batch) for batch in loader][:3] == first


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_that_another_one_ended_says_so(half_store: Store, workers: int) -> None:
    whole = [fields(batch) for batch in load(half_store)]
    with make_loader(half_store, workers=workers) as loader:
        first, second = iter(loader), iter(loader)
        assert [fields(next(first)) for _ in range(2)] == whole[:2]
        assert fields(next(second)) == whole[0]
        with pytest.raises(PlanError, match="its earlier iteration cannot go on: one is open at a time"):
            next(first)
        assert [fields(batch) for batch in second] == whole[1:]
        third = iter(loader)
        next(third)
        loader.close()
        with pytest.raises(PlanError, match="the loader was closed"):
            next(third)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_stays_as_it_is_while_it_is_held(store: Store, workers: int) -> None:
    held, copies = [], []
    for batch in make_loader(store, workers=workers):
        held.append(batch.views[3:])  # a part of it is enough
        copies.append(batch.views[3:].clone())
    assert len(held) > 20
    assert all(torch.equal(part, copy) for part, copy in zip(held, copies, strict=True))


def test_batches_that_nobody_holds_share_memory(store: Store) -> None:
    places = [batch.views.data_ptr() for batch in make_loader(store)]
    assert len(places) > 20
    assert len(set(places)) <= 2  # a loop's variable holds one while the next is made


@pytest.mark.parametrize("order", ["apart", "together"])
def test_a_row_has_one_owner_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    taken: set[int] = set()
    take, free = PoolMemory.take, PoolMemory.free

    def taking(rows: PoolMemory, number: int) -> np.ndarray:
        given = take(rows, number)
        assert taken.isdisjoint(given.tolist())
        assert len(set(given.tolist())) == number
        taken.update(given.tolist())
        return given

    def freeing(rows: PoolMemory, freed: np.ndarray) -> None:
        assert taken.issuperset(freed.tolist())
        taken.difference_update(freed.tolist())
        free(rows, freed)

    monkeypatch.setattr(PoolMemory, "take", taking)
    monkeypatch.setattr(PoolMemory, "free", freeing)
    batches = load(store, repeats=2, order=order, workers=1, epochs=4, pool_batches=1)
    check_batches(store, batches)
    num_left = sum(len(epoch) for epoch in ({0}, {1}, {2}, {3})) * 24 + 2 * 2 * 2
    assert len(taken) <= num_left  # an epoch's last views, which do not fill a batch


def test_tensors_of_a_batch_go_and_come_back_in_their_fields(soft_store: Store) -> None:
    for options in ({"soft": True}, {"labels": True}, {"labels": False}):
        batch = load(soft_store, epochs=1, **options)[0]
        assert fields(batch.with_tensors([tensor.clone() for tensor in batch.tensors()])) == fields(batch)


# -- soft labels ---------------------------------------------------------------------------------------------------


def test_soft_labels_are_what_the_teacher_says_of_each_views_pixels(soft_store: Store) -> None:
    teacher = open_test_teacher(soft_store, "convnet")
    batches = load(soft_store, soft=True, repeats=2, epochs=4)
    check_batches(soft_store, batches)
    assert {view for _, view in items(batches)} == {0, 1, 2, 3}
    for batch in batches:
        assert batch.soft is not None
        assert batch.labels is not None
        logits = teacher.logits(batch.views.numpy()).astype(np.float64) / 2
        whole = np.exp(logits - logits.max(axis=1, keepdims=True))
        whole /= whole.sum(axis=1, keepdims=True)
        classes, probabilities, tail = batch.soft.classes, batch.soft.probabilities, batch.soft.tail
        assert (classes.dtype, probabilities.dtype, tail.dtype) == (torch.int64, torch.float32, torch.float32)
        assert (classes.shape, probabilities.shape, tail.shape) == ((24, 4), (24, 4), (24,))
        assert np.array_equal(classes.numpy(), np.argsort(-whole, axis=1)[:, :4])
        assert torch.equal(classes[:, 0], batch.labels)
        largest = np.take_along_axis(whole, classes.numpy(), axis=1)
        np.testing.assert_allclose(probabilities.numpy(), largest, rtol=2**-10)
        np.testing.assert_allclose(tail.numpy(), 1 - largest.sum(axis=1), rtol=2**-10)
        np.testing.assert_allclose((probabilities.sum(1) + tail).numpy(), 1, atol=1e-6)


def test_soft_labels_change_nothing_else(soft_store: Store) -> None:
    soft, hard = (load(soft_store, soft=soft, repeats=2, seed=5, labels=not soft) for soft in (True, False))
    assert [fields(batch)[:-3] for batch in soft] == [fields(batch) for batch in hard]
    assert all(batch.soft is None for batch in hard)


def test_soft_labels_do_not_depend_on_workers_ranks_or_the_start(soft_store: Store) -> None:
    options: dict[str, Any] = {"soft": True, "repeats": 2, "seed": 5, "epochs": 2}
    whole = [fields(batch) for batch in load(soft_store, **options)]
    assert [fields(batch) for batch in load(soft_store, workers=2, **options)] == whole
    steps = make_loader(soft_store, **options).steps(0)
    for done in (1, steps - 1, steps + 3):
        start = divmod(done, steps)
        assert [fields(batch) for batch in load(soft_store, start=start, workers=2, **options)] == whole[done:]
    ranks = [load(soft_store, rank=rank, world_size=2, **options) for rank in range(2)]
    said: list[dict[Item, list[float]]] = []
    for batches in (ranks[0] + ranks[1], load(soft_store, **options)):
        said.append({})
        for batch in batches:
            assert batch.soft is not None
            said[-1].update(zip(items([batch]), batch.soft.probabilities.tolist(), strict=True))
    assert said[0] == said[1]


def test_soft_labels_of_a_store_with_skipped_samples(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(128, 1, 5))
    for sample in (3, 70, 128):
        spoil_image(store, sample)
    fill_store(store, skip_bad=True, topk=2)
    check_batches(store, load(store, soft=True, batch_size=20), frozenset({3, 70, 128}))


def test_soft_labels_that_the_store_does_not_hold(tmp_path: Path, store: Store) -> None:
    advice = rf"`teacher-cache index --like {store.path} --store OTHER`"
    with pytest.raises(StoreError, match=rf"topk 0.*{advice} and run `teacher-cache fill OTHER --topk K --tau"):
        make_loader(store, soft=True)
    empty = bright_store(tmp_path)
    with pytest.raises(
        StoreError, match=rf"not filled yet.*run `teacher-cache fill {empty.path} --teacher NAME --topk K"
    ):
        make_loader(empty, soft=True)
    fill_store(empty, topk=2, views=range(2))
    with pytest.raises(MissingLabelError, match="520 of 1,040 labels"):
        make_loader(empty, soft=True, labels=False, epochs=4)


def test_a_changed_pixel_stops_before_its_soft_labels_are_read(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(71,))
    fill_store(store, topk=2)
    change_pixel(store, 70)
    with pytest.raises(DriftError, match=r"shard train-0000\.tar, block 1"):
        load(store, soft=True, repeats=2, epochs=2)


def test_memory_for_soft_labels_is_counted(soft_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("student.pool.memory_lacking", lambda num_bytes, what: asked.append(num_bytes))
    for soft in (False, True):
        next(iter(make_loader(soft_store, soft=soft)))
    rows = asked[0] // (8 * 8 * 3)
    assert asked[1] - asked[0] == rows * 4 * (4 + 4 + 1)


# -- skipped samples -----------------------------------------------------------------------------------------------


def test_skipped_samples_are_left_out_and_their_partners_are_right(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(128, 1, 5))
    bad = frozenset({3, 70, 128})  # 128: the only sample of its shard
    for sample in bad:
        spoil_image(store, sample)
    fill_store(store, skip_bad=True)
    options: dict[str, Any] = {"repeats": 2, "epochs": 4, "batch_size": 20}
    batches = load(store, **options)
    assert bad.isdisjoint(sample for sample, _ in items(batches))
    check_batches(store, batches, bad)
    loader = make_loader(store, **options)
    list(loader)
    assert len(loader.skipped) == 3
    assert loader.views_drifted == 0 < loader.views_checked
    said: list[str] = []
    loader.announce(said.append)
    assert "left out: 3 samples that stage one skipped" in said
    assert f"all {131 * 4} that the plan needs are there (131 samples x 4 views)" in said[0]


def test_skipped_samples_by_block() -> None:
    skipped = np.array([5, 63, 64, 130])
    blocks = pass_blocks(np.array([130, 64]), skipped)
    assert skipped_by_block(blocks, skipped) == {0: {5, 63}, 1: {0}, 3: {0}}


def test_an_image_that_broke_since_names_shard_and_key(tmp_path: Path) -> None:
    store = filled_store(tmp_path, counts=(71,))
    shard, key = spoil_image(store, 70)
    with pytest.raises(ImageError, match=f"{shard}.*{key}"):
        load(store)


# -- parts of pictures ---------------------------------------------------------------------------------------------


def marked_store(folder: Path, num: int = 70) -> Store:
    """Of one shard, whose pictures have restart markers, and a policy of small crops."""
    samples = [
        {"__key__": f"s{n:05d}", "jpg": marked_jpeg(picture(n, 64, 80 + n)), "cls": b"%d" % (n % 10)}
        for n in range(num)
    ]
    write_shard(folder / "shards" / "train-0000.tar", samples)
    return bright_store(folder, policy=small_policy("crop.scale=[0.02,0.2]"))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_that_have_digests_are_made_of_parts_of_pictures(tmp_path: Path, workers: int) -> None:
    store = marked_store(tmp_path)
    fill_store(store, views=range(2), allow_low_agreement=True)
    loader = make_loader(store, epochs=4, labels=False, batch_size=70, workers=workers)
    batches = list(loader)
    check_batches(store, batches)
    assert (loader.views_checked, loader.views_unchecked) == (140, 140)


def test_pictures_are_decoded_whole_where_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[JpegPart] = []

    def noting(part: JpegPart, memory: np.ndarray) -> np.ndarray | None:
        decoded.append(part)
        return decode_part(part, memory)

    monkeypatch.setattr(block, "decode_part", noting)
    store = marked_store(tmp_path)
    load(store, epochs=1, labels=False, batch_size=70)
    fill_store(store, views=range(2), allow_low_agreement=True)
    assert not decoded  # nor in filling
    load(store, epochs=2, labels=False, batch_size=70)
    assert len(decoded) == 2 * 70
    load(store, epochs=2, labels=False, batch_size=70, repeats=2)
    assert len(decoded) > 2 * 70  # fewer than 70 more, as some pairs of crops take all of a picture
    num = len(decoded)
    load(store, epochs=4, labels=False, batch_size=68, repeats=4)  # two of the four are not filled
    load(store, epochs=4, labels=False, batch_size=70, start=(2, 0))
    assert len(decoded) == num


# -- missing labels ------------------------------------------------------------------------------------------------


def test_missing_labels_stop_before_anything_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bright_store(tmp_path)
    monkeypatch.setattr("student.loader.open_render_pool", None)
    command = f"run `teacher-cache fill {store.path} --teacher NAME --views 0:4`"
    with pytest.raises(MissingLabelError, match=rf"1,040 of 1,040 labels .*train-0000.tar, views 0 to 1: {command}"):
        make_loader(store, epochs=4)
    fill_store(store, views=range(2))
    command = f"--views-used 2, or run `teacher-cache fill {store.path} --views 2:4`"
    with pytest.raises(MissingLabelError, match=rf"520 of 1,040 labels .*, views 2 to 3: {command}"):
        make_loader(store, epochs=4)
    make_loader(store, epochs=4, views_in_use=2)
    make_loader(store, epochs=2)  # needs no others


def test_a_view_that_was_not_labelled_although_its_record_says_so_stops(tmp_path: Path) -> None:
    import zarr

    store = filled_store(tmp_path, counts=(71,))
    labels = zarr.open_array(store.path / "labels", mode="r+")
    labels[0, 3, 1] = -1
    with pytest.raises(
        MissingLabelError, match=r"train-0000.tar, key s\d+, view 1 is not labelled.*teacher-cache fill"
    ):
        load(store, repeats=2, batch_size=1, epochs=2, pool_batches=40)


def test_without_labels_an_unfilled_store_will_do_and_a_part_filled_one_is_compared(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(66, 1, 11))
    expected = []
    for filled, views in ((0, range(0)), (2, range(2)), (4, range(2, 4))):
        if views:
            fill_store(store, views=views)
        loader = make_loader(store, epochs=4, batch_size=26, labels=False)
        batches = list(loader)
        assert all(batch.labels is None for batch in batches)
        expected.append([fields(batch) for batch in batches])
        assert (loader.views_checked, loader.views_unchecked) == (filled * 78, (4 - filled) * 78)
        said = f"{filled * 78} replayed views compared with the store's digests, 0 differ"
        said = said if filled else "no replayed view was compared with the store's digests"
        uncompared = f"; {(4 - filled) * 78} were not labelled yet, so not compared" if filled < 4 else ""
        assert loader.describe_checks() == said + uncompared
    assert expected[0] == expected[1] == expected[2]
    check_batches(store, batches)


def test_views_that_repeat_are_announced(store: Store) -> None:
    said: list[str] = []
    make_loader(store, epochs=9, repeats=2, views_in_use=3).announce(said.append)
    assert any(
        "warning: 9 epochs with 2 repeats need 10 views of a sample, 3 views are in use" in line for line in said
    )
    said.clear()
    make_loader(store, epochs=4, repeats=2).announce(said.append)
    assert not any("warning" in line for line in said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 25, "world_size": 2}, "a global batch of 25 cannot be shared out among 2 ranks"),
        ({"repeats": 5}, "5 repeats need as many views of a sample, 4 views are in use"),
        ({"repeats": 3, "views_in_use": 2}, "3 repeats need as many views of a sample, 2 views are in use"),
        ({"batch_size": 300}, "less than one global batch of 300: --set batch_size=32"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not one of 2 ranks"),
        (
            {"views_in_use": 5},
            "--views-used 5 is not within the store's 1 to 4: --views-used 4, or",
        ),
        ({"views_in_use": 0}, "--views-used 0 is not within"),
        ({"order": "togehter"}, "order is 'togehter': give 'apart' or 'together'"),
        ({"on_drift": "Stop"}, "on_drift is 'Stop': give 'stop' or 'warn'"),
        ({"render": "cuda"}, "render is 'cuda': give 'auto' or 'cpu' or 'gpu'"),
        ({"epochs": 0}, "0 epochs and . workers cannot be planned: epochs start at 1"),
        ({"workers": -1}, "-1 workers cannot be planned: epochs start at 1, workers at 0"),
        ({"pool_batches": 10**12}, "GB are available: --set pool_batches=[0-9]+, or"),
    ],
)
def test_plans_that_cannot_be(store: Store, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        next(iter(make_loader(store, **options)))


@pytest.mark.parametrize("start", [(0, 6), (1, 40), (-1, 0), (0, -1), (4, 0), (3, 1)])
def test_a_start_that_is_not_in_the_plan(half_store: Store, start: tuple[int, int]) -> None:
    steps = ", epoch . has 5 steps" if 0 <= start[0] < 3 else ""
    said = rf"start is epoch {start[0]}, step {start[1]}, the plan has 3 epochs{steps}: both count from 0$"
    with pytest.raises(PlanError, match=said):
        make_loader(half_store, start=start)
    with make_loader(half_store) as loader:
        loader.start = start  # as a resumed run sets it
        with pytest.raises(PlanError, match=said):
            next(iter(loader))


def test_a_start_at_an_end_of_an_epoch(half_store: Store) -> None:
    assert [batch.step for batch in load(half_store, start=(2, 5))] == []
    assert load(half_store, start=(3, 0)) == []
    starts = [fields(load(half_store, start=start)[0]) for start in ((0, 5), (1, 0))]
    assert starts[0] == starts[1]


def test_a_store_that_is_not_there() -> None:
    with pytest.raises(StoreError, match="there is no store at nowhere"):
        ViewLoader("nowhere", 8, epochs=1)


# -- drift ---------------------------------------------------------------------------------------------------------


def test_one_changed_pixel_stops(tmp_path: Path) -> None:
    store = filled_store(tmp_path, counts=(71,))
    shard, block = change_pixel(store, 70)
    assert (shard, block) == ("train-0000.tar", 1)
    where = f"shard {shard}, block {block}, view [01]: the replayed pixels are not those that the teacher labelled"
    with pytest.raises(DriftError, match=where) as drift:
        load(store, repeats=2, epochs=2)
    message = str(drift.value)
    assert message.count("opencv") == message.count("pillow") == 2  # as it was filled, and as it is here


def test_one_changed_pixel_stops_the_command(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    shard, block = change_pixel(store, 130 + 5)
    run = ["train", str(store.path), "--recipe", SMALL, "--set", student("two_heads")]
    run += ["--device", "cpu"]
    stopped = CliRunner().invoke(main, [*run, "--out", str(tmp_path / "stopped"), "--workers", "1"])
    assert stopped.exit_code == 1
    assert f"error: shard {shard}, block {block}, view " in stopped.output
    assert not (tmp_path / "stopped" / "results.json").exists()
    run += ["--workers", "0", "--on-drift", "warn"]
    warned = CliRunner().invoke(main, [*run, "--out", str(tmp_path / "warned")])
    assert warned.exit_code == 0, warned.output
    assert f"warning: shard {shard}, block {block}, view " in warned.output
    assert "replayed views compared with the store's digests, 128 differ" in warned.output


def test_warned_drifts_are_counted_and_the_first_ones_told(tmp_path: Path) -> None:
    store = filled_store(tmp_path, views=16, group=4, counts=(64, 8))
    change_pixel(store, 7)
    warnings: list[str] = []
    loader = make_loader(store, epochs=16, on_drift="warn", warn=warnings.append)
    list(loader)
    assert loader.views_drifted == 16 * 64
    assert loader.views_checked == 16 * (64 + 8)
    assert len(warnings) == 10
    assert all("shard train-0000.tar, block 0, view " in warning for warning in warnings)


def test_another_resize_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")  # what is changed is NumPy's way
    resize = render.resize
    assert store.policy.crop.interpolation == "bicubic"
    monkeypatch.setattr(render, "resize", lambda pixels, size, interpolation: resize(pixels, size, "bilinear"))
    with pytest.raises(DriftError, match=r"shard train-000\d.tar, block \d, view 0: .*same libraries"):
        load(store)
