"""Which blocks `verify` replays, and what it says of a store with nothing in it."""

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.cli import main
from teacher_cache.errors import StoreError
from teacher_cache.rendering.crew import RenderTask
from teacher_cache.store.unit import TOPK_ARRAYS, Unit
from teacher_cache.verify import VerifyReport, _check_records, draw_in_layers, verify
from tests.support.bright_shards import bright_store, change_pixel
from tests.support.filled_store import chunk, fill, make_store, recommit
from tests.support.filling import TEACHERS, fill_store, open_test_teacher


def atoms_of(shards: int, units: int, groups: int, blocks: int) -> list[tuple[Unit, int]]:
    return [
        (Unit(shard, unit, group), unit * blocks + block)
        for group in range(groups)
        for shard in range(shards)
        for unit in range(units)
        for block in range(blocks)
    ]


@given(st.integers(1, 9), st.integers(1, 2), st.integers(1, 6), st.integers(1, 3), st.floats(0, 1), st.integers(0, 99))
def test_no_shard_or_group_is_drawn_twice_before_all_are_drawn_once(
    shards: int, units: int, groups: int, blocks: int, fraction: float, seed: int
) -> None:
    atoms = atoms_of(shards, units, groups, blocks)
    chosen = draw_in_layers(atoms, fraction, seed)
    assert len(chosen) == len(set(chosen)) == (max(1, round(fraction * len(atoms))) if fraction else 0)
    if not fraction:
        return
    of_shards = Counter(unit.shard for unit, _ in chosen)
    of_groups = Counter(unit.group for unit, _ in chosen)
    assert max(of_shards.values()) - min(of_shards[shard] for shard in range(shards)) <= 1
    if len(chosen) <= min(shards, groups):
        assert max(of_groups.values()) == 1
    if len(chosen) >= max(shards, groups) and shards >= groups:
        assert len(of_groups) == groups


@pytest.mark.parametrize("seed", range(20))
def test_a_tenth_of_a_store_covers_all_of_its_shards_and_groups(seed: int) -> None:
    chosen = draw_in_layers(atoms_of(8, 1, 5, 4), 0.1, seed)
    assert {unit.shard for unit, _ in chosen} == set(range(8))
    assert {unit.group for unit, _ in chosen} == set(range(5))


def test_all_means_all_and_nothing_nothing() -> None:
    atoms = atoms_of(3, 2, 2, 2)
    assert sorted(draw_in_layers(atoms, 1.0, 0)) == sorted(atoms)
    assert draw_in_layers([], 1.0, 0) == []
    assert draw_in_layers(atoms, 0.0, 0) == []
    assert draw_in_layers(atoms, 0.3, 1) != draw_in_layers(atoms, 0.3, 2)


def test_a_store_with_nothing_in_it_is_not_sound(tmp_path: Path) -> None:
    store = make_store(tmp_path / "my store")
    with pytest.raises(StoreError, match=r"nothing is committed in .*, 10 units wait for labels: run `") as refused:
        verify(store, 1.0)
    _, _, command = str(refused.value).partition("run `")
    assert shlex.split(command.rstrip("`"))[:5] == ["teacher-cache", "fill", str(store.path), "--teacher", "NAME"]
    for more in ((), ("--fraction", "0"), ("--teacher", "resnet10t")):
        told = CliRunner().invoke(main, ["verify", str(store.path), *more])
        assert told.exit_code == 1
        assert told.output.startswith("error: nothing is committed in ")
        assert told.output.count("\n") == 1


def test_the_smallest_fraction_is_one_block(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(130,))
    fill_store(store)
    told = CliRunner().invoke(main, ["verify", str(store.path), "--fraction", "1e-9", "--workers", "0"])
    assert told.exit_code == 0
    assert "6 records, 2 (block, view)s of 1 shard and 1 group checked: 0 differences" in told.output
    told = CliRunner().invoke(main, ["verify", str(store.path), "--fraction", "nan"])
    assert (told.exit_code, "nan is no number" in told.output) == (2, True)


def test_a_fraction_of_nothing_looks_at_records_alone(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(130,))
    fill_store(store)
    (shard,) = tmp_path.rglob("*.tar")
    shard.unlink()  # it is not read
    verifying = ["verify", str(store.path), "--fraction", "0"]
    told = CliRunner().invoke(main, verifying)
    assert (told.exit_code, told.stdout) == (
        0,
        "6 records, 0 (block, view)s of 0 shards and 0 groups checked: 0 differences\n",
    )
    for option in ("--teacher", "--checkpoint"):
        told = CliRunner().invoke(main, [*verifying, option, "resnet10t"])
        assert told.exit_code == 2
        assert "--fraction 0 renders nothing that a teacher could label: leave one of them out" in told.output
    chunk = next(path for path in (store.path / "labels").rglob("*") if path.is_file() and path.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    told = CliRunner().invoke(main, verifying)
    assert told.exit_code == 1
    assert "6 records, 0 (block, view)s of 0 shards and 0 groups checked: 1 difference" in told.stdout


def test_differences_are_told_in_the_stores_order(tmp_path: Path) -> None:
    """Though units are read group by group; and what is sound is drawn from in that order, too."""
    store = make_store(tmp_path / "s")
    fill(store)
    damaged = [Unit(3, 0, 0), Unit(0, 1, 1), Unit(0, 0, 1), Unit(1, 0, 0)]
    for unit in damaged:
        chunk(store, "digests", unit).unlink()
    report = VerifyReport()
    atoms = _check_records(store, report)
    told = []
    for unit in sorted(damaged):
        with pytest.raises(StoreError) as raised:
            store.check_unit(unit)
        told.append(str(raised.value))
    assert (report.differences, report.units) == (told, len(store.units()))
    sound = [unit for unit in sorted(store.units()) if unit not in damaged]
    assert atoms == [(unit, block) for unit in sound for block in store.layout.blocks(unit)]


@pytest.mark.parametrize("workers", [0, 1])
def test_tasks_are_made_as_they_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Those of a whole data set would take gigabytes."""
    store = bright_store(tmp_path, counts=(65, 64, 200, 130))
    fill_store(store)
    made: list[RenderTask] = []
    ahead: list[int] = []

    def make(*given: Any) -> RenderTask:
        made.append(RenderTask(*given))
        return made[-1]

    def note(done: int, total: int) -> None:
        assert total == 4 * 10
        ahead.append(len(made) - done // 2)

    monkeypatch.setattr("teacher_cache.verify.RenderTask", make)
    report = verify(store, 1, workers=workers, on_progress=note)
    assert (report.block_views, report.exact, len(made)) == (40, True, 20)
    assert max(ahead) <= 8


def test_an_extension_that_adds_nothing_says_so(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    for views in ("4", "3"):
        told = CliRunner().invoke(main, ["extend", str(store.path), "--views", views])
        assert told.exit_code == 0
        assert told.output == (
            f"{store.path} has 4 views already: nothing is added; `teacher-cache status` says what is labelled\n"
        )
    assert "4 -> 6 views" in CliRunner().invoke(main, ["extend", str(store.path), "--views", "6"]).output


def test_verify_finds_one_changed_pixel(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store)
    assert verify(store, 1.0).exact
    shard, block = change_pixel(store, 130 + 5)
    report = verify(store, 1.0, teacher=open_test_teacher(store))
    assert len(report.differences) >= store.views
    assert f"shard {shard}, block {block}, view 0" in report.differences[0]


def test_verify_finds_changed_labels_and_records(tmp_path: Path) -> None:
    import zarr

    store = bright_store(tmp_path)
    fill_store(store)
    labels = zarr.open_array(store.path / "labels", mode="r+")
    labels[0, 3, 1] = (labels[0, 3, 1] + 1) % 10
    report = verify(store, 1.0)
    assert len(report.differences) == 1
    assert "train-0000.tar" in report.differences[0]
    command = CliRunner().invoke(main, ["verify", str(store.path), "--fraction", "1", "--workers", "0"])
    assert command.exit_code == 1


def test_verify_with_another_teacher_is_refused_and_another_dtype_counts_margins(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store)
    other = ["verify", str(store.path), "--teacher", f"{TEACHERS}:shifted", "--device", "cpu", "--workers", "0"]
    result = CliRunner().invoke(main, other)
    assert result.exit_code == 1
    assert "weights_sha256" in result.output
    same = ["verify", str(store.path), "--teacher", f"{TEACHERS}:brightness", "--device", "cpu", "--workers", "0"]
    assert CliRunner().invoke(main, [*same, "--fraction", "1"]).exit_code == 0
    coarse = CliRunner().invoke(main, [*same, "--fraction", "1", "--dtype", "bf16"])
    assert coarse.exit_code == 0
    assert "0 differences" in coarse.output


@pytest.mark.parametrize("name", TOPK_ARRAYS)
def test_verify_finds_other_probabilities_than_the_teachers(tmp_path: Path, name: str) -> None:
    """Committed whole, with a sound record: only the teacher can tell."""
    store = bright_store(tmp_path, counts=(130,))
    fill_store(store, topk=3, tau=0.1)
    teacher = open_test_teacher(store)
    assert verify(store, 1.0, teacher=teacher).exact
    unit = Unit(0, 1, 1)
    values = store.read_unit(unit)
    planted = getattr(values, name)[:64].copy()
    if name == "topk_classes":
        planted[9, 1, 1:] = planted[9, 1, :0:-1]
    else:
        planted[9, 1, 3] = np.nextafter(planted[9, 1, 3], np.float16(1))
    counts = store.records.read_one(unit).counts
    values = replace(values, **{name: planted, "labels": values.labels[:64]})
    recommit(store, unit, values, counts)
    assert verify(store, 1.0).exact
    report = verify(store, 1.0, teacher=teacher)
    (difference,) = report.differences
    where = f"shard train-0000.tar, key {store.index.key(64 + 9)}, view 3: stored is "
    assert difference.startswith(where)
    assert ("all other classes" in difference) == (name == "topk_probabilities")
    assert "at tau 0.1: the probabilities are not this teacher's" in difference
    teacher.identity = replace(teacher.identity, device="another")
    assert verify(store, 1.0, teacher=teacher).exact
