"""Running the evidence: all of it in small, going on after kill -9, and what stops it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from teacher_cache.errors import BusyError
from teacher_cache.processes.lock import alone
from teacher_cache.store.labels import read_views
from teacher_cache.store.store import Store
from tests.support.bright_shards import write_bright_shards
from tests.support.forked import CLIENT, Command, Forks
from tests.support.running import descendants, running, wait_until
from tests.support.small_runs import validation_shard
from tools.evidence.errors import EvidenceError
from tools.evidence.forecast import forecast
from tools.evidence.measure import measure
from tools.evidence.plan import Plan, make_plan
from tools.evidence.process import Places, Record, read_record, write_record
from tools.evidence.run import run
from tools.evidence.settings import load_settings, only_experiments
from tools.evidence.steps import ROOT
from tools.evidence.table import Measure, Results, Row, key, read_lines

TINY = str(ROOT / "tests" / "support" / "tiny_evidence.toml")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for path in write_bright_shards(folder / "made", (64, 64)):
        shutil.move(path, folder)
    validation_shard(folder / "val-0000.tar", 40, [str(number) for number in range(10)])
    return folder


def tiny(*experiments: str) -> Plan:
    return make_plan(only_experiments(load_settings(TINY), experiments), "cpu")


def run_tiny(plan: Plan, data: Path, folder: Path, forks: Forks, *, jobs: int = 1) -> tuple[list[str], Results]:
    """Run a plan in folder/out, in forked processes; what it said, and where its rows are."""
    said: list[str] = []
    places = Places(data, folder / "out", (sys.executable, "-S", str(CLIENT), forks.socket))
    results = Results(folder / "results", "tiny")
    run(plan, places, results, said.append, device="a cpu", jobs=jobs)
    return said, results


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> tuple[Path, Results]:
    """Everything, run once. -> its folder and rows."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_tiny(tiny(), data, folder, forks, jobs=2)[1]


def test_all_rows_and_measures_of_a_tiny_scale(whole: tuple[Path, Results], data: Path) -> None:
    folder, results = whole
    rows = {(row.experiment, row.arm): row for row in read_lines(Row, results.rows)}
    assert rows.keys() == {
        ("teachers", "teacher convnet"),
        ("teachers", "taught"),
        ("online", "cached"),
        ("online", "online"),
        ("naive", "one label"),
    }
    teacher, taught = rows["teachers", "teacher convnet"], rows["teachers", "taught"]
    evaluated = json.loads((folder / "out" / "students" / "token-seed0.json").read_text())
    accuracy = {name: found["top1"] for name, found in evaluated["accuracy"].items()}
    assert (taught.top1_class, taught.top1_distill, taught.top1_fused) == pytest.approx(
        (accuracy["class"], accuracy["distillation"], accuracy["fused_softmax_sum"])
    )
    assert teacher.teacher_top1 is None
    assert (teacher.top1_distill, teacher.pictures) == (None, 40)
    assert taught.teacher_top1 == pytest.approx(teacher.top1_class)
    assert (taught.epochs, taught.views, taught.device) == (2, 2, "a cpu")
    assert 0 < taught.hours < 0.1
    assert taught.command.startswith("student train $OUT/stores/main --recipe tests/support/small.toml --model ")
    assert str(data) not in results.rows.read_text()
    assert str(folder) not in results.rows.read_text()

    # what is the same is the same run, and what is online is the same to the bit
    cached, online = rows["online", "cached"], rows["online", "online"]
    assert replace(cached, experiment="teachers", arm="taught") == taught
    shares = ("top1_class", "top1_distill", "top1_fused")
    assert [getattr(cached, name) for name in shares] == [getattr(online, name) for name in shares]
    measures = {(each.measure, each.arm): each.value for each in read_lines(Measure, results.measures)}
    assert measures["losses: steps compared", "cached"] == len(steps(folder, "token")) > 4
    assert measures["losses: steps that differ", "cached"] == 0
    assert measures["labels: labels given once more", "main"] == 128 * 4
    assert measures["labels: labels that differ", "main"] == 0
    (*_, last) = csv.DictReader((folder / "out" / "students" / "token-seed0" / "epochs.csv").read_text().splitlines())
    agreement = measures["taught: answers as its teacher", "taught"]
    assert 0 < agreement == pytest.approx(float(last["teacher_agreement"]), abs=1e-6)
    assert measures["fill: wall time", "main"] > 0
    assert measures["bytes: views labelled", "main"] == 128 * 4
    assert 0 < measures["bytes: of a view, labels alone", "main"] < measures["bytes: of a view", "main"]


def steps(folder: Path, student: str) -> list[str]:
    return (folder / "out" / "students" / f"{student}-seed0" / "steps.csv").read_text().splitlines()[1:]


def test_how_alike_two_tokens_are_at_the_end_is_measured(
    whole: tuple[Path, Results], data: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole[0] / "out", tmp_path / "out")
    answer = tmp_path / "out" / "students" / "token-seed0.json"
    plan, places = tiny("teachers"), Places(data, tmp_path / "out", ())
    (taught,) = [each for each in plan.measures if each.kind == "taught"]
    assert [found.measure for found in measure(taught, plan, places)] == ["taught: answers as its teacher"]
    answer.write_text(json.dumps({**json.loads(answer.read_text()), "token_cosine": [0.5, 0.25]}))
    found = {each.measure: each.value for each in measure(taught, plan, places)}
    assert found["taught: cosine of its tokens after the last block"] == 0.25


def test_a_loss_that_differs_in_its_last_digit_is_counted(
    whole: tuple[Path, Results], data: Path, tmp_path: Path
) -> None:
    plan, out = tiny("online"), tmp_path / "out"
    (out / "students").mkdir(parents=True)
    (out / "steps").symlink_to(whole[0] / "out" / "steps")
    for name in ("token-seed0", "online-seed0"):
        shutil.copytree(whole[0] / "out" / "students" / name, out / "students" / name)
    (losses,) = [each for each in plan.measures if each.kind == "losses"]
    for column in ("loss", "class_loss", "distill_loss"):
        path = out / "students" / "online-seed0" / "steps.csv"
        before = path.read_text()
        lines = before.splitlines()
        cells = lines[3].split(",")
        cells[lines[0].split(",").index(column)] += "1"
        path.write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:], ""]))
        found = {each.measure: each.value for each in measure(losses, plan, Places(data, out))}
        assert found["losses: steps that differ"] == 1
        path.write_text("\n".join([*lines[:-1], ""]))
        with pytest.raises(EvidenceError, match="they are other runs"):
            list(measure(losses, plan, Places(data, out)))
        path.write_text(before)
    found = {each.measure: each.value for each in measure(losses, plan, Places(data, out))}
    assert found["losses: steps that differ"] == 0


def test_a_naive_caches_students_saw_the_same_pixels_and_other_labels(whole: tuple[Path, Results]) -> None:
    folder, _ = whole
    ours, naive = (Store.open(folder / "out" / "stores" / name) for name in ("main", "one-label"))
    for unit in ours.units():
        assert (ours.read_unit(unit).digests == naive.read_unit(unit).digests).all()
    labels = read_views(naive)
    assert (labels == labels[:, :1]).all()
    assert (labels != read_views(ours)).any()
    assert steps(folder, "one-label") != steps(folder, "token")


def test_what_has_a_row_is_not_run_again(whole: tuple[Path, Results], data: Path, tmp_path: Path, forks: Forks) -> None:
    folder, results = whole
    shutil.copytree(results.folder, tmp_path / "results")
    said, again = run_tiny(tiny(), data, tmp_path, forks)  # in another folder, where nothing is
    assert said == []
    assert again.rows.read_bytes() == results.rows.read_bytes()
    # a row is gone: its run is there, and no step is run for it
    shutil.copytree(folder / "out", tmp_path / "out", dirs_exist_ok=True)
    lines = again.rows.read_text().splitlines(keepends=True)
    again.rows.write_text("".join(line for line in lines if not line.startswith("naive,one label")))
    said, _ = run_tiny(tiny(), data, tmp_path, forks)
    assert said == []
    assert sorted(again.rows.read_text().splitlines()) == sorted(results.rows.read_text().splitlines())


def test_a_row_of_other_settings_is_told(whole: tuple[Path, Results], data: Path, forks: Forks, tmp_path: Path) -> None:
    folder, results = whole
    plan = tiny()
    student = plan.settings.students["token"].model_copy(update={"set": ("lr=0.1",)})
    other = plan.settings.model_copy(update={"students": {**plan.settings.students, "token": student}})
    with pytest.raises(EvidenceError, match=r"tiny\.csv has teachers, taught, seed 0 of `student train .* restore"):
        run(make_plan(other), Places(data, folder / "out"), results, print, device="")
    with pytest.raises(EvidenceError, match=r"students\.token-seed0\.train\.json is of `student .* restore the"):
        run(make_plan(other), Places(data, folder / "out"), Results(tmp_path, "tiny"), print, device="")


def test_a_step_that_fails_ends_the_run_with_its_last_words(data: Path, tmp_path: Path, forks: Forks) -> None:
    plan = tiny("teachers")
    store = plan.settings.stores["plain"].model_copy(update={"set": ("size=8", "mixx=none")})
    other = plan.settings.model_copy(update={"stores": {**plan.settings.stores, "plain": store}})
    with pytest.raises(EvidenceError, match=r"stores/plain/index ended with 1: .*unknown setting mixx.*index\.log"):
        run_tiny(make_plan(other), data, tmp_path, forks)
    assert read_lines(Row, tmp_path / "results" / "tiny.csv") == []


def test_one_runner_at_a_time(data: Path, tmp_path: Path, forks: Forks) -> None:
    script = "import sys, time; from pathlib import Path; from teacher_cache.processes.lock import alone\n"
    for place in ("out/.lock", "results/.tiny.lock"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        holding = f"with alone(Path({str(tmp_path / place)!r}), '', '', print): print('held', flush=True); input()"
        other = subprocess.Popen(
            [sys.executable, "-c", script + holding],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        with other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(BusyError, match="another run writes to "):
                run_tiny(tiny("teachers"), data, tmp_path, forks)
            other.communicate(b"\n")
    with alone(tmp_path / "out" / "free", "", "", print):
        pass


def test_killed_in_the_middle_of_a_training_it_goes_on(
    whole: tuple[Path, Results], data: Path, tmp_path: Path, forks: Forks
) -> None:
    """The teacher alone. Its steps are no forks of the tests' server but processes of the runner's own, as it is the
    kernel that ends them with it."""
    words = ["run", TINY, "--data", data, "--out", tmp_path / "out"]
    words += ["--results", tmp_path / "results", "--only", "teachers"]
    places, step = Places(data, tmp_path / "out"), tiny().steps["teachers/convnet/train"]

    def start() -> Command:
        return forks.start("tools.evidence", [*map(str, words), "--device", "cpu"])

    runner = start()
    wait_until((tmp_path / "out" / "teachers" / "convnet" / "checkpoint.pt").exists)
    children = descendants(runner.id)
    assert children
    os.kill(runner.id, signal.SIGKILL)
    assert runner.wait() == -signal.SIGKILL
    wait_until(lambda: not running(children))
    record = read_record(places, step)
    assert record is not None
    assert record.running
    assert not record.done

    # a signal asks the second attempt to stop; the third one goes through
    runner = start()
    wait_until(lambda: descendants(runner.id))
    assert runner.stop(signal.SIGTERM) == 75
    assert runner.output.endswith("the same command goes on\n")
    (tmp_path / "out" / "students").mkdir()
    for name in ("students/token-seed0", "students/token-seed0.json"):  # what follows is run elsewhere already
        (tmp_path / "out" / name).symlink_to(whole[0] / "out" / name)
    for each in tiny("teachers").steps.values():
        if each.name.startswith(("stores/main", "students/token")):
            ended = read_record(Places(data, whole[0] / "out"), each)
            assert ended is not None
            write_record(places, each, ended)
    results = run_tiny(tiny("teachers"), data, tmp_path, forks)[1]
    rows = {key(row): row for row in read_lines(Row, results.rows)}
    expected = {key(row): row for row in read_lines(Row, whole[1].rows) if row.experiment == "teachers"}
    assert rows.keys() == expected.keys()
    for each_key, row in rows.items():
        other = expected[each_key]
        assert (row.top1_class, row.top1_fused) == (other.top1_class, other.top1_fused), each_key
    assert "going on from" in (tmp_path / "out" / "logs" / "teachers.convnet.train.log").read_text()
    finished = read_record(places, step)
    assert finished is not None
    assert finished.wall_s > record.wall_s
    assert finished.cpu_s is None  # that of the killed attempt is lost with its runner


def test_the_minutes_of_a_row_are_those_that_were_measured(data: Path, tmp_path: Path) -> None:
    plan, places, results = tiny(), Places(data, tmp_path / "out"), Results(tmp_path, "tiny")
    first = {(row.experiment, row.arm): row for row in forecast(plan, places, results)}
    assert first["teachers", "taught"].state == "to run"
    assert first["online", "cached"].state == "shared"
    assert first["online", "cached"].minutes == 0
    of_settings = first["teachers", "teacher convnet"].minutes
    ended = Record(plan.steps["stores/plain/index"].command, "abc", 30.0, 30.0, done=True)
    write_record(places, plan.steps["stores/plain/index"], ended)
    left = next(iter(forecast(plan, places, results)))
    assert left.minutes == pytest.approx(of_settings - 12 / 60)
    two = load_settings(TINY).model_copy(update={"seeds": (0, 1)})
    plan = make_plan(two)
    train = plan.steps["students/one-label-seed0/train"]
    write_record(places, train, Record(train.command, "abc", 600.0, 1.0, done=True))
    rows = [row for row in forecast(plan, places, results) if row.arm == "one label"]
    assert [row.seed for row in rows] == [0, 1]
    assert rows[1].minutes == pytest.approx(10 + 12.1 / 60, abs=0.1)
    half = plan.steps["students/one-label-seed1/train"]
    write_record(places, half, Record(half.command, "abc", 240.0, 1.0, running=True))
    (_, left) = [row for row in forecast(plan, places, results) if row.arm == "one label"]
    assert left.minutes == pytest.approx(rows[1].minutes - 4)
