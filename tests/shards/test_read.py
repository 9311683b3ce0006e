"""Many shards: found, walked, joined to an index, and their blocks read back."""

import multiprocessing
import os
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teacher_cache.audit.conditions import image_sizes
from teacher_cache.errors import ImageError, ShardError
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.shards import read as shards_module
from teacher_cache.shards import walk as walk_module
from teacher_cache.shards.classes import ClassRule, class_rule
from teacher_cache.shards.fingerprint import Fingerprint, image_fingerprint
from teacher_cache.shards.index import BlockPlace, Index, ShardEntry, ShardIndex
from teacher_cache.shards.read import (
    block_sizes,
    check_shards,
    class_order_warning,
    count_unlike,
    expand_shards,
    index_shards,
    read_block,
    same_class_share,
)
from tests.support.bright_shards import bright_image
from tests.support.shard_files import make_samples, read_webdataset, write_shard, write_shards

CLS = ClassRule()


def test_index_and_blocks(tmp_path: Path) -> None:
    counts = [130, 1, 64, 65]
    paths = write_shards(tmp_path, counts)
    index = index_shards(paths, class_rule(paths))
    expected = [sample for path in paths for sample in read_webdataset(path)]
    assert (index.num_samples, index.num_shards, index.counts.tolist()) == (260, 4, counts)
    assert index.starts.tolist() == [0, 130, 131, 195, 260]
    assert index.class_names == tuple(f"class-{number}" for number in range(10))
    assert [index.num_blocks(shard) for shard in range(4)] == [3, 1, 1, 2]
    assert [index.shard_of(sample) for sample in (0, 129, 130, 131, 194, 195, 259)] == [0, 0, 1, 2, 2, 3, 3]
    assert [index.key(sample) for sample in range(260)] == [sample["__key__"] for sample in expected]
    assert (index.classes.dtype, index.offsets.dtype, index.sizes.dtype) == (np.int32, np.int64, np.int64)
    position = 0
    for shard in range(4):
        for number in range(index.num_blocks(shard)):
            place = pickle.loads(pickle.dumps(index.place(shard, number, frozenset({0}))))
            block = read_block(place)
            samples = expected[position : position + len(block.keys)]
            assert (block.shard, block.number, block.skipped) == (f"train-{shard:04d}.tar", number, frozenset({0}))
            assert len(block.keys) == min(BLOCK_SAMPLES, counts[shard] - number * BLOCK_SAMPLES)
            assert list(block.keys) == [sample["__key__"] for sample in samples]
            assert list(block.images) == [sample["png"] for sample in samples]
            assert block.classes.tolist() == [int(sample["cls"]) for sample in samples]
            position += len(block.keys)
    assert position == 260


def test_find(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", make_samples(3))
    write_shard(tmp_path / "b.tar", make_samples(2, first=2))
    write_shard(tmp_path / "c.tar", [])
    index = index_shards(expand_shards([str(tmp_path / "*.tar")]), CLS)
    assert index.find("sample-00000") == 0
    assert index.find("sample-00003") == 4
    assert index.find("sample-00002", "a.tar") == 2
    assert index.find("sample-00002", "b.tar") == 3
    for arguments, part in [
        (("sample-00002",), r"2 samples have the key 'sample-00002' \(in a.tar, b.tar\)"),
        (("sample-0000",), "no sample 'sample-0000' in any of 3 shards"),
        (("sample-00000", "b.tar"), "no sample 'sample-00000' in shard b.tar"),
        (("sample-00000", "c.tar"), "no sample 'sample-00000' in shard c.tar"),
        (("sample-00000", "d.tar"), "shard d.tar is not in the index"),
    ]:
        with pytest.raises(ShardError, match=part):
            index.find(*arguments)


def test_class_names_without_a_file(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(4, num_classes=3))
    assert index_shards([str(path)], CLS).class_names == ("0", "1", "2")


def test_blocks_of_a_shard_that_changed(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(5))
    place = index_shards([str(path)], CLS).place(0, 0)
    content = path.read_bytes()
    for changed in (content[:-1], b"", content + bytes(512), content + b"x"):  # cut, emptied, grown by zeros
        path.write_bytes(changed)
        refused(
            place,
            rf"shard a.tar: .* has {len(changed):,} bytes, the index says {len(content):,} \(read for key "
            r"'sample-00000'\): it is another file than was indexed; put .* back, .*--shards, or index again",
        )
    path.unlink()
    refused(place, r"shard a.tar: .* at key 'sample-00000' \(No such file.*--shards")
    path.mkdir()
    refused(place, "shard a.tar: .*a.tar (has|cannot be read)")


def refused(place: BlockPlace, part: str) -> None:
    """By every reader of a block, and as no fault of an image, which --skip-bad would pass over."""
    for read in (read_block, image_sizes):
        with pytest.raises(ShardError, match=part) as caught:
            read(place)
        assert not isinstance(caught.value, ImageError)
        assert str(caught.value).isprintable()


OTHER = (
    r"shard b.tar: .*b.tar holds another image than was indexed at key 'sample-00003' \(its fingerprint differs\); put"
)


@pytest.mark.parametrize("whole", [False, True])
def test_a_shard_of_the_same_size_keys_and_offsets_is_another(tmp_path: Path, whole: bool) -> None:
    """One image replaced by another of its size, also where the sample is skipped."""
    samples = stored_samples(5)
    path = write_shard(tmp_path / "b.tar", samples)
    index = index_shards([str(path)], CLS, whole=whole)
    assert index.fingerprint == ("whole" if whole else "tail")
    samples[3]["png"] = stored_samples(5, seed=1)[3]["png"]
    write_shard(path, samples)
    changed = index_shards([str(path)], CLS, whole=whole)
    assert changed.shards == index.shards
    for skipped in (frozenset[int](), frozenset({3})):
        refused(index.place(0, 0, skipped), OTHER)
    assert read_block(changed.place(0, 0)).images[3] == samples[3]["png"]


def test_two_shards_exchanged_are_found(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / name, stored_samples(5, seed=seed)) for seed, name in enumerate(("a.tar", "b.tar"))]
    index = index_shards([str(path) for path in paths], CLS)
    assert paths[0].stat().st_size == paths[1].stat().st_size
    assert index.shards[0].hash == index.shards[1].hash
    os.rename(paths[0], tmp_path / "c.tar")
    os.rename(paths[1], paths[0])
    os.rename(tmp_path / "c.tar", paths[1])
    for shard, name in enumerate("ab"):
        refused(index.place(shard, 0), rf"shard {name}.tar: .*{name}.tar holds another image .* key 'sample-00000'")


def test_only_whole_fingerprints_tell_of_a_change_before_the_tail(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "b.tar", make_samples(5))
    tail, whole = (index_shards([str(path)], CLS, whole=which).place(0, 0) for which in (False, True))
    content = bytearray(path.read_bytes())
    content[int(tail.offsets[3])] ^= 1
    path.write_bytes(content)
    assert read_block(tail).images[3] == content[tail.offsets[3] : tail.offsets[3] + tail.sizes[3]]
    refused(whole, OTHER)
    content[int(tail.offsets[3] + tail.sizes[3]) - 3] ^= 1
    path.write_bytes(content)
    refused(tail, OTHER)


def test_an_undecodable_sample_that_did_not_change_passes(tmp_path: Path) -> None:
    samples = make_samples(3)
    samples[1]["png"] = b"no image"
    path = write_shard(tmp_path / "a.tar", samples)
    place = index_shards([str(path)], CLS).place(0, 0, frozenset({1}))
    assert read_block(place).images[1] == b"no image"
    assert image_sizes(place).tolist() == [[8, 8], [0, 0], [8, 8]]


def test_a_damaged_index_reads_nothing_beyond_the_shard(tmp_path: Path) -> None:
    place = index_shards([str(write_shard(tmp_path / "a.tar", make_samples(3)))], CLS).place(0, 0)
    for wrong in (
        replace(place, sizes=place.sizes + np.array([0, 0, 2**60])),
        replace(place, offsets=place.offsets - 2**60),
    ):
        refused(
            wrong,
            "shard a.tar: .* images of block 0 .*key 'sample-00000'.* beyond it: the index is damaged; index again",
        )


def stored_samples(num_samples: int, seed: int = 0) -> list[dict[str, str | bytes]]:
    """Samples whose images are of one size whatever the seed."""
    return [
        {"__key__": f"sample-{n:05d}", "png": bright_image(n + 1000 * seed), "cls": b"%d" % (n % 10)}
        for n in range(num_samples)
    ]


def same_tails(num_samples: int, unlike: int, alike: int = 0) -> list[dict[str, str | bytes]]:
    """Samples of which so many differ only before their tails, and so many are the same image."""
    samples = stored_samples(num_samples)
    for number in range(unlike):
        samples[number]["png"] = b"%04d" % number + bytes(200)
    for number in range(unlike, unlike + alike):
        samples[number]["png"] = samples[unlike]["png"]
    return samples


@pytest.mark.parametrize(
    ("unlike", "alike", "whole"), [(0, 0, False), (2, 0, False), (3, 0, True), (200, 0, True), (0, 200, False)]
)
def test_images_are_hashed_whole_where_many_unlike_ones_end_alike(
    tmp_path: Path, unlike: int, alike: int, whole: bool
) -> None:
    samples = same_tails(200, unlike, alike)
    paths = [str(write_shard(tmp_path / f"{number}.tar", samples[number::2])) for number in range(2)]
    notes: list[str] = []
    index = index_shards(paths, CLS, workers=2, scratch=tmp_path / "scratch", note=notes.append)
    images = [sample["png"] for number in range(2) for sample in samples[number::2]]
    kind = "whole" if whole else "tail"
    assert index.fingerprint == kind
    assert index.fingerprints.tolist() == [image_fingerprint(image, kind) for image in images if type(image) is bytes]
    assert len(notes) == whole
    if whole:
        assert f"fingerprints are taken of whole images: at least {unlike} of 200 samples end with" in notes[0]
    else:
        assert count_unlike(index) == (unlike if unlike > 2 else 0)


def test_only_images_that_collide_are_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_shards([str(write_shard(tmp_path / "a.tar", same_tails(200, 0, alike=10)))], CLS)
    read: list[int] = []
    read_range = shards_module.read_range

    def count(fd: int, start: int, size: int) -> bytes:
        read.append(start)
        return read_range(fd, start, size)

    monkeypatch.setattr(shards_module, "read_range", count)
    assert count_unlike(index) == 0
    assert read == index.offsets[:10].tolist()


def test_a_read_that_returns_early_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = index_shards([str(write_shard(tmp_path / "a.tar", make_samples(3)))], CLS).place(0, 0)
    whole = read_block(place)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 1000), offset))
    assert read_block(place).images == whole.images


def classes_index(classes: Iterable[int], counts: Sequence[int] = ()) -> Index:
    """An index of these classes in shards of so many samples (default: one shard)."""
    flat = np.array(list(classes), np.int32)
    counts = counts or [len(flat)]
    ends = np.cumsum(counts)
    assert ends[-1] == len(flat)
    zeros = np.zeros(len(flat), np.int64)
    parts = [
        ShardIndex(ShardEntry(f"{end}.tar", f"{end}.tar", 0, 0), *keys, *arrays)
        for count, end in zip(counts, ends.tolist(), strict=True)
        for keys in [(np.frombuffer(b"k" * count, np.uint8), np.arange(1, count + 1))]
        for arrays in [[array[end - count : end] for array in (flat, zeros, zeros, zeros.astype(np.uint64))]]
    ]
    return Index.join(parts, tuple(str(number) for number in range(max(flat, default=0) + 1)))


def naive_share(index: Index) -> float:
    """How likely the partner of a sample, drawn from the others of its block, has its class."""
    shares = []
    for shard in range(index.num_shards):
        for block in range(index.num_blocks(shard)):
            classes = index.place(shard, block).classes.tolist()
            if len(classes) > 1:
                shares += [(classes.count(one) - 1) / (len(classes) - 1) for one in classes]
    return float(np.mean(shares))


def shuffled(num_samples: int, num_classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(num_samples) % num_classes)


def in_turn(num_classes: int, at_once: int, each: int) -> np.ndarray:
    """Classes 0, 1 ... at_once - 1 in turn, each so many times, then the next ones."""
    return np.concatenate(
        [np.tile(np.arange(first, first + at_once), each) for first in range(0, num_classes, at_once)]
    )


SORTED: list[tuple[np.ndarray, list[int]]] = [
    (np.sort(shuffled(1000, 10)), [250] * 4),
    (np.repeat(np.arange(10), 20), [20] * 10),  # a class a shard
    (np.concatenate([np.random.default_rng(n).integers(5 * n, 5 * n + 5, 1000) for n in range(200)]), [1000] * 200),
    (in_turn(1000, 2, 100), [1000] * 100),
    (in_turn(10, 2, 100), [200] * 5),
    (np.sort(shuffled(1000, 3)), [1000]),
    (np.sort(shuffled(1000, 2)), [500, 500]),
    (np.concatenate([shuffled(700, 100), np.zeros(300, int)]), [700, 300]),  # long-tailed, its head apart
    (np.repeat(np.arange(5), 3), [3] * 5),
]  # fmt: skip

WELL: list[tuple[np.ndarray, list[int]]] = [
    *((shuffled(20_000, classes, seed), [1000] * 20) for classes in (1, 2, 3, 10, 1000) for seed in range(5)),
    *((shuffled(200, classes, seed), [70, 70, 60]) for classes in (2, 10, 150) for seed in range(5)),
    *((np.sort(shuffled(count, 10)), [count]) for count in (1, 2, 3, 7, 8, 40, 64)),  # one block, in whatever order
    (np.zeros(100, int), [100]),
    (in_turn(2, 2, 500), [1000]),  # two classes of two: half of the pairs, as after a shuffle
    (np.random.default_rng(0).permutation(np.repeat(np.arange(100), 4000 // np.arange(1, 101))), None),  # type: ignore[list-item]
    (shuffled(5000, 10), [65] * 76 + [60]),  # a block of one at the end of each shard
    (np.zeros(0, int), [0]),
    (shuffled(800, 10), [8] * 100),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "counts"), SORTED)
def test_sorted_shards_are_warned_of(classes: np.ndarray, counts: list[int]) -> None:
    index = classes_index(classes, counts)
    message = class_order_warning(index)
    assert message is not None
    assert "\n" not in message
    assert "shards look sorted by class: " in message
    assert "`python tools/make_shards.py reshuffle SHARDS OUT`" in message
    assert f"{naive_share(index):.0%} of the pairs" in message


@pytest.mark.parametrize(("classes", "counts"), WELL)
def test_shuffled_shards_are_not_warned_of(classes: np.ndarray, counts: list[int]) -> None:
    assert class_order_warning(classes_index(classes, counts)) is None


def test_small_shards_are_warned_of() -> None:
    for counts, median in (([3] * 1000, 3), ([1] * 50, 1), ([7] * 30 + [64], 7)):
        message = class_order_warning(classes_index(shuffled(sum(counts), 10), counts))
        assert message is not None
        assert f"shards are too small: half of the samples are in blocks of {median} or fewer" in message
        assert "reshuffle SHARDS OUT" in message
    assert class_order_warning(classes_index(shuffled(sum([3] * 5 + [64]), 10), [3] * 5 + [64])) is None


def test_chance_is_what_shuffles_show() -> None:
    """Mean and standard deviation of the same-class share over many shuffles, beside the formulas."""
    counts = [130, 70, 1, 64, 9]
    classes = np.repeat(np.arange(6), [150, 60, 40, 14, 9, 1])
    rng = np.random.default_rng(0)
    indexes = [classes_index(rng.permutation(classes), counts) for _ in range(400)]
    _, expected, deviation = same_class_share(indexes[0], block_sizes(indexes[0]))
    found = np.array([same_class_share(index, block_sizes(index))[0] for index in indexes])
    assert found[:5].tolist() == pytest.approx([naive_share(index) for index in indexes[:5]])
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 20)
    assert found.std() == pytest.approx(deviation, rel=0.15)  # four times the error of a deviation of 400


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stray_class_is_named_with_its_sample(tmp_path: Path, workers: int) -> None:
    samples = make_samples(6, num_classes=3)
    samples[4]["cls"] = b"999999"
    paths = [str(write_shard(tmp_path / f"{n}.tar", samples[3 * n : 3 * n + 3])) for n in range(2)]
    with pytest.raises(ShardError) as caught:
        index_shards(paths, CLS, workers=workers)
    assert str(caught.value) == (
        "shard 1.tar: sample 'sample-00004' has class 999,999, but only 4 different classes occur: correct it, or name "
        "all classes with --classes FILE, or in a classes.json beside the shards"
    )
    names = tuple(f"n{number}" for number in range(1_000_000))
    assert index_shards(paths, ClassRule("cls", names)).classes.max() == 999_999
    assert len(index_shards(paths, CLS, num_classes=1_000_000).class_names) == 1_000_000
    with pytest.raises(ShardError, match="sample-00004"):
        index_shards(paths, CLS, num_classes=10)


def test_classes_without_names_that_are_plausible(tmp_path: Path) -> None:
    for largest, others in ((999, 1), (1000, 101), (9999, 1000)):
        samples = make_samples(others, num_classes=others)
        samples[0]["cls"] = b"%d" % largest
        path = write_shard(tmp_path / f"{largest}.tar", samples)
        assert len(index_shards([str(path)], CLS).class_names) == largest + 1
    samples = make_samples(100, num_classes=100)
    samples[0]["cls"] = b"1000"
    with pytest.raises(ShardError, match=r"has class 1,000, but only 100 different classes occur"):
        index_shards([str(write_shard(tmp_path / "stray.tar", samples))], CLS)


def test_expand_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/t-0.tar", "a/t-1.tar", "a/t-10.tar", "b/s-0.tar", "b/[x].tar"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert expand_shards(["a/t-{0..1}.tar"]) == ["a/t-0.tar", "a/t-1.tar"]
    assert expand_shards(["a/*.tar", "b/s-0.tar"]) == [
        "b/s-0.tar",
        "a/t-0.tar",
        "a/t-1.tar",
        "a/t-10.tar",
    ]
    assert expand_shards(["{a,b}/*-0.tar"]) == ["b/s-0.tar", "a/t-0.tar"]
    assert expand_shards(["**/t-1?.tar"]) == ["a/t-10.tar"]
    assert expand_shards(["b/[x].tar"]) == ["b/[x].tar"]
    Path("link.tar").symlink_to("a/t-0.tar")  # a name of its own
    assert expand_shards(["link.tar", "a/t-0.tar"]) == ["link.tar", "a/t-0.tar"]
    (tmp_path / "b" / "t-0.tar").touch()
    for patterns, part in [
        ([], "no shards given"),
        (["a/t-{0..2}.tar"], r"no shard a/t-2.tar there \(of the pattern a/t-\{0..2\}.tar\)"),
        (["a/x-*.tar"], r"no shard a/x-\*.tar there"),
        (["a/x.tar"], "no shard a/x.tar there"),
        (["a/{0.tar"], "no shard|unbalanced"),
        (["a/t-0.tar", "b/t-0.tar"], "two shards have the file name t-0.tar: a/t-0.tar and b/t-0.tar"),
        (["a/t-0.tar", "a/t-*.tar"], "shard t-0.tar is given twice"),
        (["file:a/t-0.tar"], "is a URL or a pipe"),
        (["pipe:cat a/t-0.tar"], "is a URL or a pipe"),
        (["https://host/{0..3}.tar"], "is a URL or a pipe"),
        (["a"], r"a is a folder: give its shards as a/\*.tar"),
    ]:
        with pytest.raises(ShardError, match=part):
            expand_shards(patterns)


def assert_equal(one: Index, other: Index) -> None:
    assert (one.shards, one.class_names) == (other.shards, other.class_names)
    assert one.fingerprint == other.fingerprint
    for name in ("counts", "key_bytes", "key_ends", "classes", "offsets", "sizes", "fingerprints"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_workers_and_refusals_from_them(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [5, 3, 0, 2])
    rule = class_rule(paths)
    alone: list[tuple[int, int]] = []
    together: list[tuple[int, int]] = []
    scratch = tmp_path / "scratch"
    one = index_shards(paths, rule, progress=lambda done, total: alone.append((done, total)))
    two = index_shards(
        paths, rule, workers=2, scratch=scratch, progress=lambda done, total: together.append((done, total))
    )
    assert_equal(one, two)
    assert alone == together == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(list(scratch.iterdir())) == 4
    damaged = Path(paths[3])
    damaged.write_bytes(damaged.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"train-0003\.tar .*the last whole sample is 'sample-00008'") as own:
        index_shards(paths, rule)
    with pytest.raises(ShardError) as walkers:
        index_shards(paths, rule, workers=2, scratch=scratch)
    assert str(walkers.value) == str(own.value)
    assert not multiprocessing.active_children()


def test_an_interrupted_walk_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path, [5, 3, 2])
    rule = class_rule(paths)
    scratch = tmp_path / "scratch"
    walked: list[str] = []
    walk = walk_module.index_shard

    def count(path: str, rule: ClassRule, kind: Fingerprint) -> ShardIndex:
        walked.append(os.path.basename(path))
        return walk(path, rule, kind)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(walk_module, "index_shard", count)
    with pytest.raises(KeyboardInterrupt):
        index_shards(paths, rule, scratch=scratch, progress=stop)
    assert walked == ["train-0000.tar", "train-0001.tar"]
    assert_equal(index_shards(paths, rule, scratch=scratch), index_shards(paths, rule))
    assert walked[2:] == ["train-0002.tar", *(os.path.basename(path) for path in paths)]

    def walked_again() -> list[str]:
        walked.clear()
        index_shards(paths, rule, scratch=scratch)
        return list(walked)

    assert walked_again() == []
    os.utime(paths[1], ns=(0, 5))
    assert walked_again() == ["train-0001.tar"]
    write_shard(Path(paths[0]), make_samples(9))
    assert walked_again() == ["train-0000.tar"]
    rule = ClassRule("cls", (*(rule.names or ()), "one more"))
    assert len(walked_again()) == 3
    assert_equal(index_shards(paths, rule, scratch=scratch, whole=True), index_shards(paths, rule, whole=True))
    assert walked_again() == []
    for file in scratch.iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    assert len(walked_again()) == 3
    assert walked_again() == []


def test_what_was_walked_for_another_image_does_not_count(tmp_path: Path) -> None:
    samples = [sample | {"left.png": sample["png"] + b"x"} for sample in make_samples(3)]  # type: ignore[operator]
    path = str(write_shard(tmp_path / "a.tar", samples))
    for rule in (CLS, ClassRule(image_from="left.png"), CLS):
        index = index_shards([path], rule, scratch=tmp_path / "scratch")
        assert_equal(index, index_shards([path], rule))
        assert index.image_from == rule.image_from
        assert read_block(index.place(0, 0)).images[0].endswith(b"x") == (rule.image_from is not None)


def change_tail(image: str | bytes) -> bytes:
    assert isinstance(image, bytes)
    return image[:-3] + bytes([image[-3] ^ 1]) + image[-2:]


def test_shards_of_whole_fingerprints_are_checked_whole(tmp_path: Path) -> None:
    paths = [str(write_shard(tmp_path / "old" / "a.tar", make_samples(5)))]
    index = index_shards(paths, CLS, whole=True)
    samples = make_samples(5)
    moved = str(write_shard(tmp_path / "new" / "a.tar", samples))
    assert check_shards(index, [moved], CLS).shards[0].path == moved
    samples[2]["png"] = b"x" + bytes(samples[2]["png"])[1:]  # type: ignore[arg-type]
    write_shard(Path(moved), samples)
    assert check_shards(index_shards(paths, CLS), [moved], CLS).shards[0].path == moved
    with pytest.raises(ShardError, match="first at key 'sample-00002'"):
        check_shards(index, [moved], CLS)


def test_check_shards(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "old", [5, 3])
    rule = class_rule(paths)
    index = index_shards(paths, rule)
    places = write_shards(tmp_path / "new", [5, 3])
    moved = check_shards(index, list(reversed(places)), rule)
    assert [entry.path for entry in moved.shards] == places
    np.testing.assert_array_equal(moved.key_bytes, index.key_bytes)
    assert check_shards(index, places, ClassRule()).shards == moved.shards

    def check(part: str, given: list[str], rule: ClassRule = rule) -> None:
        with pytest.raises(ShardError, match=part):
            check_shards(index, given, rule)

    check("1 of 2 shards of the index are not among the 1 given, the first is train-0001.tar", places[:1])
    check(r"shard other.tar is not in the index \(1 such\)", [*places, str(tmp_path / "other.tar")])
    check(r"the classes beside .* \(2\) are not the 10 of the index", places, ClassRule("cls", ("a", "b")))
    file = Path(places[1])
    write_shard(file, make_samples(30))
    check(r"shard train-0001.tar: .* has [\d,]+ bytes, the index says [\d,]+", places)
    samples = make_samples(3, first=5)
    write_shard(file, [*samples[:2], {**samples[2], "cls": b"9"}])
    check(r"shard train-0001.tar: .* has other names, sizes or classes: hash \w+, the index says \w+; give", places)
    write_shard(file, [*samples[:2], {**samples[2], "png": change_tail(samples[2]["png"])}])
    check(
        r"shard train-0001.tar: .* holds other images than were indexed, the first at key 'sample-00007' \(1 of 3 "
        r"fingerprints differ\); give the shards that were indexed",
        places,
    )
    write_shard(file, samples[:2])
    with open(file, "ab") as stream:
        stream.write(bytes(Path(paths[1]).stat().st_size - file.stat().st_size))
    check("holds 2 samples, the index says 3", places)
    file.unlink()
    check("shard train-0001.tar: .* cannot be opened", places)
