"""Validation views: every sample once, preprocessing that shows, and classes that must be the model's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from student.validation import Preprocessing, ValidationSet, index_validation
from teacher_cache.device import Normalise
from teacher_cache.errors import ShardError
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from teacher_cache.storage.cache import NodeCache
from tests.support.bright_shards import bright_image
from tests.support.memory_storage import bucket_in_memory
from tests.support.shard_files import write_shard
from tests.support.small_runs import validation_shard

NAMES = [str(number) for number in range(10)]
CPU = torch.device("cpu")
VIEWED = Preprocessing((12, 8), 1.0, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def validation_set(path: str, seen: Preprocessing = VIEWED, **options: Any) -> ValidationSet:
    return ValidationSet(index_shards([path], class_rule([path])), seen, **{"workers": 0, **options})


@pytest.mark.parametrize("num_samples", [40, 150])
def test_every_sample_is_seen_by_one_of_two_ranks(tmp_path: Path, num_samples: int) -> None:
    path = validation_shard(tmp_path / "val-0000.tar", num_samples)
    alone = list(validation_set(path).batches(100))
    parts = [list(validation_set(path, rank=rank, world_size=2).batches(100)) for rank in range(2)]
    assert bool(parts[1]) == (num_samples > 64)  # 40 samples are one block: the second rank has none
    images = sorted(view.numpy().tobytes() for batch in alone for view in batch.views)
    assert sorted(view.numpy().tobytes() for part in parts for batch in part for view in batch.views) == images
    assert len(set(images)) == num_samples == sum(len(batch.classes) for batch in alone)


def test_a_sample_is_known_by_its_number_in_the_index(tmp_path: Path) -> None:
    path = validation_shard(tmp_path / "val-0000.tar", 150)
    index = index_shards([path], class_rule([path]))
    for rank in range(2):
        for batch in validation_set(path, rank=rank, world_size=2).batches(64):
            assert index.classes[batch.samples.numpy()].tolist() == batch.classes.tolist()
            assert len(batch.views) == len(batch.samples)
    samples = [batch.samples for batch in validation_set(path).batches(100)]
    assert torch.cat(samples).tolist() == list(range(150))


def test_the_crops_share_changes_the_views(tmp_path: Path) -> None:
    path = validation_shard(tmp_path / "val-0000.tar", 10)
    views = {
        share: next(validation_set(path, replace(VIEWED, crop_pct=share)).batches(64)).views
        for share in (1.0, 0.6, 0.5)
    }
    assert all(view.shape == (10, 12, 8, 3) for view in views.values())
    assert not torch.equal(views[1.0], views[0.6])
    assert not torch.equal(views[0.6], views[0.5])


def test_normalise_is_the_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    shown = Normalise(VIEWED.mean, VIEWED.std, CPU)(torch.from_numpy(pixels)).numpy()
    expected = (pixels / 255 - np.array(VIEWED.mean)) / np.array(VIEWED.std)
    assert np.abs(shown - expected.transpose(0, 3, 1, 2)).max() < 1e-6


# -- classes -------------------------------------------------------------------------------------------------------


def test_other_class_names_are_refused(tmp_path: Path) -> None:
    animals = ["cat", "dog", "emu", *"defghij"]
    path = validation_shard(tmp_path / "val.tar", 20, animals)
    assert index_validation([path], animals).num_samples == 20
    with pytest.raises(ShardError, match=r"class 2 is emu there and gnu here.*classes\.json beside them"):
        index_validation([path], ["cat", "dog", "gnu", *"defghij"])
    with pytest.raises(ShardError, match="10 classes there and 11 here"):
        index_validation([path], [*animals, "k"])
    with pytest.raises(ShardError, match="class 0 is cat there and 0 here"):
        index_validation([path], NAMES)


def test_numbered_classes_may_lack_the_highest_but_not_exceed_it(tmp_path: Path) -> None:
    path = validation_shard(tmp_path / "val.tar", 8)  # classes 0 to 7
    assert index_validation([path], NAMES).num_samples == 8
    with pytest.raises(ShardError, match="8 classes there and 7 here"):
        index_validation([path], NAMES[:7])


def test_a_few_samples_of_many_numbered_classes_are_no_stray_ones(tmp_path: Path) -> None:
    samples = [{"__key__": f"v{n}", "png": bright_image(n), "cls": b"%d" % (4000 * n)} for n in range(5)]
    path = str(write_shard(tmp_path / "val.tar", samples))
    many = tuple(str(number) for number in range(21_841))
    assert index_validation([path], many).num_samples == 5
    assert index_validation([path], None, num_classes=21_841).num_samples == 5
    with pytest.raises(ShardError, match=r"shard val.tar: sample 'v4' has class 16,000, but only 5 different"):
        index_validation([path], NAMES)


def test_a_model_without_class_names_takes_the_shards(tmp_path: Path) -> None:
    numbered = validation_shard(tmp_path / "val.tar", 8)  # classes 0 to 7
    assert index_validation([numbered], None, num_classes=8).num_samples == 8
    assert index_validation([numbered], None, num_classes=1000).num_samples == 8  # the highest may be absent
    with pytest.raises(ShardError, match=r"have 8 classes, the model has 7: name the shards of its data"):
        index_validation([numbered], None, num_classes=7)
    named = validation_shard(tmp_path / "named" / "val.tar", 8, list("abcdefghij"))
    assert index_validation([named], None, num_classes=10).class_names == tuple("abcdefghij")
    with pytest.raises(ShardError, match="have 10 classes, the model has 11"):
        index_validation([named], None, num_classes=11)


def test_validation_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="hold no samples"):
        index_validation([validation_shard(tmp_path / "val.tar", 0, NAMES)], NAMES)


def test_classes_come_from_where_the_training_shards_have_them(tmp_path: Path) -> None:
    samples = [
        {"__key__": f"v{n}", "png": bright_image(n), "json": json.dumps({"label": n}).encode()} for n in range(10)
    ]
    path = str(write_shard(tmp_path / "val.tar", samples))
    assert index_validation([path], NAMES, "json:label").classes.tolist() == list(range(10))
    with pytest.raises(
        ShardError, match=r"has no class.*\(validation shards are read as training's: class from cls\)$"
    ):
        index_validation([path], NAMES)


def test_shards_far_away_are_walked_once_a_machine(tmp_path: Path) -> None:
    path = Path(validation_shard(tmp_path / "val-0000.tar", 150, NAMES))
    cache = NodeCache(tmp_path / "cache", 10**7)
    with bucket_in_memory() as bucket:
        bucket.upload(path.parent, "s3://set")
        bucket.objects["s3://set/classes.json"] = (path.parent / "classes.json").read_bytes()
        found = [index_validation(["s3://set/*.tar"], NAMES, cache=cache) for _ in range(2)]
        assert bucket.reads() == 1
    np.testing.assert_array_equal(found[0].offsets, found[1].offsets)
    assert found[0].shards == found[1].shards
