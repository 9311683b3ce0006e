"""Every step of a store of any size is measured, once; what fills it is what fills a simulated store."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner

from teacher_cache.cli import main as teacher_cache
from teacher_cache.store.store import Store
from tests.support.filled_store import files
from tools import simulate_scale, simulate_store
from tools.inspect_cache import main as inspect_cache
from tools.simulate_scale import (
    OWN_STEPS,
    Measured,
    ScaleError,
    Size,
    Step,
    main,
    markdown_table,
    measure,
    measure_all,
    steps,
)

SIZE = Size(samples=300, shards=3, views=32, classes=20, seed=0, processes=2)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole store, by two parts of a fill, the second of which is run again."""
    simulate_store.PROTOTYPES = 64
    out = tmp_path_factory.mktemp("scale")
    for name, part in (("create", 0), ("offsets", 0), ("fill part", 1), ("fill part", 0), ("fill part", 0)):
        assert OWN_STEPS[name](out, SIZE, part)
    return out


def test_parts_of_a_fill_make_the_store_that_one_process_makes(out: Path, tmp_path: Path) -> None:
    simulate_store.make_store(tmp_path / "whole", 300, 3, 32, 20, 0, lambda: None)
    assert files(out / "store") == files(tmp_path / "whole")
    assert not Store.open(out / "store").missing_units()


def test_every_step_runs_on_a_whole_store(out: Path) -> None:
    assert OWN_STEPS["walk"](out, SIZE, 0).startswith("300 samples in 3 shards walked in ")
    assert re.match(r"0\.\d\d GB in 3 shards by HTTP from this machine in ", OWN_STEPS["walk far"](out, SIZE, 0))
    assert not (out / "walked").exists()
    assert "index of 300 samples" in OWN_STEPS["open"](out, SIZE, 0)
    assert "; 300 labels in 1 batch " in OWN_STEPS["epoch"](out, SIZE, 0)
    commands = [step.words for step in steps(out, SIZE) if "--own-step" not in step.words]
    for words in commands:
        program, given = (teacher_cache, words[2:]) if words[0] == "-m" else (inspect_cache, words[1:])
        result = CliRunner().invoke(program, list(given))
        assert result.exit_code == 0, result.output
    assert Store.open(out / "store").views == 48
    own = {step.words[-1] for step in steps(out, SIZE) if "--own-step" in step.words}
    assert {*own, "fill part"} == set(OWN_STEPS)


@pytest.mark.parametrize(("samples", "shards", "views"), [(1, 1, 1), (4, 2, 2), (1000, 3, 16)])
def test_an_epoch_of_a_store_of_any_size_is_read(tmp_path: Path, samples: int, shards: int, views: int) -> None:
    """Also of one that is no multiple of the repeats, or has fewer views."""
    simulate_store.PROTOTYPES = 64
    size = Size(samples, shards, views, classes=2, seed=0, processes=1)
    for name in ("create", "offsets", "fill part"):
        OWN_STEPS[name](tmp_path, size, 0)
    read = samples - samples % min(3, views) if samples > 1 else 1
    assert re.search(rf"; {read} labels? in 1 batch ", OWN_STEPS["epoch"](tmp_path, size, 0))


def test_what_cannot_be_simulated_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = CliRunner().invoke(main, ["out", "--samples", "3", "--shards", "4"])
    assert few.exit_code == 2
    assert "--samples 3 lie in --shards 4: a shard holds one or more" in few.output
    far = CliRunner().invoke(main, ["s3://bucket/out", "--samples", "4", "--shards", "4"])
    assert far.exit_code == 1
    assert far.output.startswith("error: s3://bucket/out is a URL: only local folders are known here")
    assert not list(tmp_path.iterdir())


def test_a_step_is_measured_with_the_processes_that_it_starts(tmp_path: Path) -> None:
    """From a process that is small, as the program is: a process counts the memory of the one it was forked from."""
    large = "b = bytearray(400_000_000); b[::4096] = b'1' * len(b[::4096])"
    script = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {large!r}]); time.sleep(0.2)"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"12345")
    measured = f"""
        import json, sys
        from dataclasses import asdict
        from pathlib import Path
        from tools.simulate_scale import Step, measure
        steps = Step("large", ["-c", {script!r}], Path({str(tmp_path)!r})), Step("small", ["-c", "print(1)"])
        print(json.dumps([asdict(measure(step)) for step in steps]))
    """
    done = subprocess.run([sys.executable, "-c", dedent(measured)], capture_output=True, text=True, check=True)
    row, small = (Measured(**found) for found in json.loads(done.stdout))
    assert row.seconds > 0.2
    assert small.peak_bytes < 300_000_000 < 400_000_000 < row.peak_bytes < 800_000_000
    assert (row.files, row.num_bytes, row.note) == (1, 5, "")
    assert (small.files, small.num_bytes, small.note) == (None, None, "")


def test_a_step_that_fails_ends_the_run() -> None:
    with pytest.raises(ScaleError, match="a step ended with exit code 3"):
        measure(Step("a step", ["-c", "raise SystemExit(3)"]))


def test_a_run_that_was_stopped_goes_on_after_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    out.mkdir()
    words = {name: ["-c", f"open({str(log)!r}, 'a').write('{name} ')"] for name in ("first", "second")}
    broken = [Step("first", words["first"]), Step("second", ["-c", "raise SystemExit(1)"])]
    monkeypatch.setattr(simulate_scale, "steps", lambda out, size: broken)
    with pytest.raises(ScaleError, match="second ended with exit code 1"):
        measure_all(out, SIZE)
    monkeypatch.setattr(simulate_scale, "steps", lambda out, size: [Step(*each) for each in words.items()])
    result = CliRunner().invoke(main, [str(out), *SIZE.words])
    assert result.exit_code == 0, result.output
    assert log.read_text() == "first second "
    assert markdown_table(measure_all(out, SIZE)) in result.output
    with pytest.raises(ScaleError, match="give another folder"):
        measure_all(out, replace(SIZE, views=16))


def test_the_program_does_a_step_of_its_own(out: Path) -> None:
    row = measure(Step("open", [simulate_scale.__file__, str(out), *SIZE.words, "--own-step", "open"]))
    assert "its index of 300 samples" in row.note
