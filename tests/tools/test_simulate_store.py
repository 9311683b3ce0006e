"""A simulated store is one that every reader accepts, and says what its labels say."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from teacher_cache.audit.summary import summarise
from teacher_cache.cli import main as teacher_cache
from teacher_cache.store.labels import LabelReader
from teacher_cache.store.status import status
from teacher_cache.store.store import Store
from tests.support.filled_store import files
from tools import simulate_store
from tools.inspect_cache import main as inspect_cache
from tools.simulate_store import draw_pairs, main, simulated_index

SIZE = ["--samples", "7000", "--shards", "3", "--views", "33", "--classes", "20"]


@pytest.fixture(scope="module", autouse=True)
def small_teacher() -> None:
    simulate_store.PROTOTYPES = 64


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, small_teacher: None) -> Store:
    path = tmp_path_factory.mktemp("simulated") / "s"
    result = CliRunner().invoke(main, [str(path), *SIZE])
    assert result.exit_code == 0, result.output
    per_view = status(Store.open(path))["bytes"]["per_view"]
    summary = f"{path}: 7,000 samples in 3 shards x 48 views, 9 units; {per_view:.3f} bytes a view"
    assert summary in result.output.replace("\n", "")
    return Store.open(path)


def test_every_unit_is_sound_and_every_reader_accepts_it(store: Store) -> None:
    assert not store.missing_units()
    for unit in store.units():
        store.check_unit(unit)
    found = status(store)
    assert (found["samples"], found["shards"], found["views"], found["classes"]) == (7000, 3, 48, 20)
    assert found["coverage"]["share"] == 1
    assert found["policy"]["name"] == "deit"
    for command, arguments in ((teacher_cache, ["status", str(store.path)]), (inspect_cache, [str(store.path)])):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0, result.output
    samples, views = np.divmod(np.arange(7000 * 48), 48)
    labels = LabelReader(store).labels(samples, views)
    assert set(labels.tolist()) == set(range(20))


def test_counts_are_those_of_the_labels(store: Store) -> None:
    samples, views = np.divmod(np.arange(7000 * 48), 48)
    labels = LabelReader(store).labels(samples, views).reshape(7000, 48)
    own = (labels == store.index.classes[:, None]).mean()
    agreement = status(store)["agreement"]
    assert agreement["own"] == pytest.approx(own)
    assert 0.3 < agreement["own"] < 0.6 < agreement["larger"] < agreement["either"] < 0.95
    assert sum(row["labels"] for row in summarise(store)["agreement_by_class"]) == labels.size


def test_the_seed_says_it_all(store: Store, tmp_path: Path) -> None:
    for name, seed in (("again", "0"), ("other", "1")):
        assert CliRunner().invoke(main, [str(tmp_path / name), *SIZE, "--seed", seed]).exit_code == 0
    assert files(tmp_path / "again") == files(store.path)
    assert files(tmp_path / "other")["labels/c/0/0/0"] != files(store.path)["labels/c/0/0/0"]
    refused = CliRunner().invoke(main, [str(tmp_path / "again"), *SIZE])
    assert (refused.exit_code, "exists already" in refused.output) == (1, True)


def test_pairs_are_matchings_inside_blocks() -> None:
    partners, shows_partner = draw_pairs(np.random.default_rng(0), 150, 40)
    rows = np.arange(150)
    assert len({tuple(column) for column in partners.T.tolist()}) > 20
    for column, shows in zip(partners.T, shows_partner.T, strict=True):
        np.testing.assert_array_equal(column[column], rows)
        np.testing.assert_array_equal(column // 64, rows // 64)
        np.testing.assert_array_equal(shows[column], shows)
        assert not shows[column == rows].any()
        assert (column[:128] != rows[:128]).all()
    assert 0.4 < shows_partner[:128].mean() < 0.6


def test_images_lie_in_their_shards_one_after_the_other() -> None:
    index = simulated_index(100, 7, 10, 0)
    assert index.counts.tolist() == [15, 15, 14, 14, 14, 14, 14]
    assert len({index.key(sample) for sample in range(100)}) == 100
    for shard, entry in enumerate(index.shards):
        part = slice(index.starts[shard], index.starts[shard + 1])
        offsets, ends = index.offsets[part], index.offsets[part] + index.sizes[part]
        assert offsets[0] == 512
        assert (offsets % 512 == 0).all()
        assert (offsets[1:] >= ends[:-1]).all()
        assert ends[-1] < entry.num_bytes
