"""The benchmark on tiny data: every row through the command, and that both sides do the work that is counted."""

import importlib.util
import io
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from timm.data import create_transform

from teacher_cache.replay import render
from teacher_cache.replay.block import replay
from teacher_cache.replay.decode import decode
from teacher_cache.replay.native.library import SWITCH, lacking
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.forked import Forks
from tests.support.images import marked_jpeg
from tests.support.making import forking_environment
from tests.support.shard_files import write_shard
from tests.support.timms import seeded
from tools.benchmark import main
from tools.benchmarks import gpu, native, pipeline, renderer, rendering, row, scaling, startup, storage
from tools.benchmarks.internals import STEPS
from tools.benchmarks.peers import DaliViews, TimmViews
from tools.benchmarks.photographs import make_photographs, read_photographs
from tools.benchmarks.rendering import (
    SEED,
    ViewCount,
    as_blocks,
    count_blocks,
    count_one_by_one,
    render_ours,
    render_parts,
    rendering_policy,
    shares,
)
from tools.benchmarks.row import BenchmarkError, Measurement, RowPlan, UnavailableError, in_turns, measure_row
from tools.benchmarks.scale import TINY
from tools.benchmarks.table import PrintedRow, markdown_table, read_markdown_table
from tools.benchmarks.timm_train import HOW_TO_GET
from tools.restart_markers import JPEGTRAN

WITHOUT_DALI = importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None
WITHOUT_MATPLOTLIB = importlib.util.find_spec("matplotlib") is None
FIELDS = {
    *("name", "against", "unit", "ours", "peer", "limit", "ratio", "reach", "spread", "repeats"),
    *("lower_is_better", "elapsed_s", "note"),
}
PX = 48


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    return make_photographs(6, (60, 72), 2_500, seed=1)


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--tiny", "--scratch", str(folder / "scratch"), *options])


def rows_of(folder: Path, *options: str) -> dict[str, dict]:
    file = folder / "found.json"
    done = run(folder, "--json", str(file), *options)
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert {"date", "machine", "versions", "images", "ratio", "command", "rows"} <= found.keys()
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["machine"]["cores"] >= 1
    for entry in found["rows"]:
        assert entry.keys() == FIELDS
        assert entry["name"] in done.stdout
        assert entry["elapsed_s"] >= 0
        if entry["ratio"] is None:
            assert entry["note"] in done.stdout
            assert entry["note"]
        else:
            other = entry["limit"] if entry["peer"] is None else entry["peer"]
            better, worse = (other, entry["ours"]) if entry["lower_is_better"] else (entry["ours"], other)
            assert entry["ratio"] == pytest.approx(better / worse)
            assert entry["spread"][0] <= entry["spread"][1]
            assert entry["repeats"] >= 1
    return {entry["name"]: entry for entry in found["rows"]}


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def forked_processes(tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that rows start find their imports made: what they take says nothing at this scale."""
    monkeypatch.setattr(sys, "executable", str(forking_environment(tmp_path / "venv", forks) / "bin" / "python"))


@pytest.mark.usefixtures("forked_processes")
def test_every_row_of_the_cpu_is_there(tmp_path: Path) -> None:
    markdown = tmp_path / "table.md"
    rows = rows_of(tmp_path, "--repeats", "1", "--markdown", str(markdown))
    plans = [plan for story in (rendering, native, pipeline, storage, scaling, startup) for plan in story.plans()]
    assert list(rows) == [plan.name for plan in plans]
    assert len(set(rows)) == len(plans)
    measured = {name for name, entry in rows.items() if entry["ratio"] is not None}
    marked = set() if shutil.which(JPEGTRAN) else {name for name in rows if "restart markers" in name}
    assert {name for name in rows if "timm" in name or "stage" in name or "plan" in name} - marked <= measured
    assert rows["bytes a view, a filled store"]["note"].startswith("give a filled store")
    assert "posterize" in rows["views/s per core, 1 view a decode, vs timm"]["note"]
    lines = markdown.read_text().splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.usefixtures("forked_processes")
def test_every_line_of_the_gpus_rows_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is left as it is: to compile it takes most of the time."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    rows = rows_of(tmp_path, "--repeats", "1", "--gpu", "--device", "cpu")
    assert list(rows) == [plan.name for plan in gpu.plans()]
    assert len(rows) == 19
    measured = [entry for entry in rows.values() if entry["ratio"] is not None]
    assert all((entry["peer"] or entry["limit"]) > 0 for entry in measured)
    assert {name: entry["note"] for name, entry in rows.items() if entry["ratio"] is None} == {
        "GPU: stage two, DeiT-Ti, vs timm's train.py": HOW_TO_GET,
        "GPU: stage two, DeiT-Ti, compiled, vs timm's train.py": HOW_TO_GET,
        "GPU: renderer's share of the device in stage two": "no kernel of the renderer ran: the CPU renders",
        "GPU: rendering kernels alone, R = 3": "no CUDA device is here: the CPU renders",
        "GPU: rendering kernels alone, R = 16": "no CUDA device is here: the CPU renders",
    }


def test_timms_own_script_is_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate is that of its log's second half; it compiles its student where ours is compiled."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    script = tmp_path / "train.py"
    script.write_text(
        "import pathlib, sys\n"
        "data = [word.removeprefix('--data-dir=') for word in sys.argv if word.startswith('--data-dir=')][0]\n"
        "assert '--kd-distill-type=token' in sys.argv and len(list(pathlib.Path(data).rglob('*.jpg'))) > 16\n"
        "for rate in (1.0, 2.0, *((80.5, 90.5) if '--torchcompile' in sys.argv else (50.5, 70.5))):\n"
        "    print(f'Train: 0 [ 1/9 ( 11%)]  Loss: 6.9  Time: 0.1s, {rate:>7.2f}/s  (0.1s,  999.00/s)  LR: 1e-3')\n"
    )
    words = ("--repeats", "1", "--gpu", "--device", "cpu", "--rows", "GPU: stage*train.py")
    rows = rows_of(tmp_path, *words, "--timm-train", str(script))
    assert {name: entry["peer"] for name, entry in rows.items()} == {
        "GPU: stage two, DeiT-Ti, vs timm's train.py": 60.5,
        "GPU: stage two, DeiT-Ti, compiled, vs timm's train.py": 85.5,
    }
    script.write_text("raise SystemExit('no such teacher')")
    entry, _ = rows_of(tmp_path, *words, "--timm-train", str(script)).values()
    assert entry["ratio"] is None
    assert f"{script} gave no rate: no such teacher" in entry["note"]


def test_what_both_stages_cost() -> None:
    """Filling at 4 views/s, training at 12 and, online, at 3: a view online costs a quarter more, as filling does."""
    assert gpu.both_stages(4.0, 12.0, 3.0) == (
        "both stages: 1.00 times as fast for one student, 2.50 for five, even from 1.0 students on"
    )
    assert gpu.both_stages(4.0, 3.0, 3.0).endswith("never even")


@pytest.mark.parametrize(("repeats", "view_px", "blocks"), [(3, 224, 5), (16, 224, 1), (300, 384, 1), (1, 32, 853)])
def test_kernels_are_timed_with_as_much_as_a_device_renders_at_once(repeats: int, view_px: int, blocks: int) -> None:
    assert renderer.blocks_at_once(repeats, view_px) == blocks


def test_the_renderers_share_is_of_its_own_kernels() -> None:
    names = renderer.kernel_names()
    assert names == frozenset() or names >= {"rotate", "resize_across", "mix", "block_sums"}
    assert "tl" not in names
    taken = {"rotate": 0.5, "gemm": 8.0, "mix": 0.25}
    assert renderer.share_of(taken, frozenset({"rotate", "mix", "erase"}), 10.0) == 0.075
    with pytest.raises(UnavailableError, match="the CPU renders"):
        renderer.share_of({"gemm": 8.0}, frozenset({"rotate"}), 10.0)


def test_a_killed_run_keeps_the_rows_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(given: row.Bench) -> Measurement:
        raise KeyboardInterrupt

    done = RowPlan("one", "peer", "unit", lambda given: Measurement((4.0,), (2.0,)))
    monkeypatch.setattr(scaling, "plans", lambda: [done, RowPlan("other", "peer", "unit", end)])
    file, markdown = tmp_path / "found.json", tmp_path / "found.md"
    assert run(tmp_path, "--rows", "o*", "--json", str(file), "--markdown", str(markdown)).exit_code != 0
    (kept,) = json.loads(file.read_text())["rows"]
    assert (kept["name"], kept["ratio"]) == ("one", 2.0)
    assert len(markdown.read_text().splitlines()) == 3


def test_a_gpu_is_asked_for_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run(tmp_path, "--gpu")
    assert done.exit_code == 1
    assert done.stderr == "error: no CUDA device is here: run it on a machine with a GPU, or leave --gpu out\n"


def test_rows_of_no_name_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--rows", "nothing*")
    assert (done.exit_code, done.stderr) == (1, "error: no row is named nothing*: --list names them\n")


def test_a_peer_that_is_not_installed_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("nvidia") else found(name))
    rows = rows_of(tmp_path, "--repeats", "2", "--rows", "*a decode, vs DALI")
    assert len(rows) == 3
    for entry in rows.values():
        assert entry["ours"] > 0
        assert (entry["peer"], entry["ratio"]) == (None, None)
        assert "pip install nvidia-dali-cuda130" in entry["note"]


def test_rendering_is_asked_to_stay_on_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    set_affinity = os.sched_setaffinity

    def note(process: int, cores: set[int]) -> None:
        asked.append(set(cores))
        set_affinity(process, cores)

    monkeypatch.setattr(os, "sched_setaffinity", note)
    rows_of(tmp_path, "--repeats", "1", "--rows", "*1 view a decode, vs timm")
    assert asked == [{max(allowed)}, allowed]
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (allowed, threads)


def test_bytes_of_a_filled_store(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store)
    (entry,) = rows_of(tmp_path, "--repeats", "1", "--filled", str(store.path), "--rows", "bytes a view, a*").values()
    files = [file for name in store.array_names for file in (store.path / name).rglob("*") if file.is_file()]
    views = int(store.counts.sum()) * store.views
    assert entry["ours"] == pytest.approx(sum(file.stat().st_size for file in files) / views)
    assert (entry["peer"], entry["ratio"]) == (44, pytest.approx(44 / entry["ours"]))


def test_images_of_shards(tmp_path: Path) -> None:
    images = make_photographs(TINY.images, (60, 72), 2_500)
    samples = [{"__key__": f"{number}", "jpg": image, "cls": b"0"} for number, image in enumerate(images)]
    shard = write_shard(tmp_path / "shards" / "train-0.tar", samples)
    assert read_photographs([str(shard)], TINY.images) == images
    chosen = ("--shards", str(shard), "--rows", "*1 view a decode, vs timm")
    (entry,) = rows_of(tmp_path, "--repeats", "1", *chosen).values()
    assert entry["ours"] > 0


@pytest.mark.parametrize("is_installed", [True, False])
def test_photographs_with_restart_markers(tmp_path: Path, is_installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed:
        monkeypatch.setenv("PATH", str(tmp_path))
    elif shutil.which(JPEGTRAN) is None:
        pytest.skip("needs jpegtran: libjpeg-turbo-progs of Debian and Ubuntu")
    (entry,) = rows_of(tmp_path, "--repeats", "1", "--rows", "*restart markers, vs timm").values()
    assert (entry["ours"] is not None) == is_installed
    told = "our files have restart markers" if is_installed else "put in by jpegtran, which is not found: install"
    assert told in entry["note"]


def test_few_images_are_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_photographs(3, (60, 72), 2_500)
    samples = [{"__key__": f"{number}", "jpg": image, "cls": b"0"} for number, image in enumerate(images)]
    shard = write_shard(tmp_path / "few" / "train-0.tar", samples)
    assert read_photographs([str(shard)], 7) == [*images, *images, images[0]]
    assert capsys.readouterr().err == "the shards hold 3 images, repeated up to 7\n"


@pytest.mark.skipif(WITHOUT_MATPLOTLIB, reason="matplotlib is not installed (pip install -e '.[bench]')")
def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "ratios.png"
    rows_of(tmp_path, "--repeats", "1", "--rows", "*plan*", "--plot", str(file))
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(2**20)) > 10


@pytest.mark.skipif(not WITHOUT_MATPLOTLIB, reason="matplotlib is installed")
def test_a_plot_without_matplotlib_is_refused_first(tmp_path: Path) -> None:
    done = run(tmp_path, "--plot", str(tmp_path / "ratios.png"))
    assert done.exit_code == 1
    assert re.fullmatch(r"error: matplotlib is not installed: .*\n", done.stderr)


def test_the_pages_table_is_read_as_it_is_written() -> None:
    measured = Measurement((6.0, 8.0, 30.0), (2.0, 4.0, 6.0))
    rows = [
        measure_row(RowPlan("in turns", "peer", "unit", lambda bench: measured, reach=2.5), bench(Path())),
        measure_row(RowPlan("alone", "nobody", "unit", lambda bench: Measurement((1.0,))), bench(Path())),
    ]
    page = f"# Rows\n\n{markdown_table(rows)}\nNothing | of | this.\n"
    expected = [PrintedRow("in turns", 2.0, (2.0, 5.0), 2.5), PrintedRow("alone", None, None, 1.0)]
    assert read_markdown_table(page) == expected
    with pytest.raises(BenchmarkError, match="has no table of what, against"):
        read_markdown_table("# Rows\n")


def test_the_documentations_table_can_be_drawn_again() -> None:
    rows = read_markdown_table((Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text())
    assert len(rows) > 20
    assert sum(row.ratio is not None for row in rows) > 20


# -- rows ------------------------------------------------------------------------------------------------------------


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str, turn: int) -> float:
        order.append(f"{name} {turn}")
        return 10.0 * turn if name == "ours" else 5.0

    found = in_turns(2, partial(side, "ours"), partial(side, "peer"))
    assert order == ["ours 0", "peer 0", "ours 1", "peer 1", "ours 2", "peer 2"]
    assert found == ((10.0, 20.0), (5.0, 5.0))


def test_a_row_begins_no_turn_after_its_time() -> None:
    """A turn that goes on is ended, with the peer's, and there is one at least."""
    turns: list[int] = []

    def ours(turn: int) -> float:
        turns.append(turn)
        return 1.0

    late = replace(bench(Path()), repeats=5, row_s=0.0).begin_row()
    assert late.turns(ours, lambda turn: 2.0) == ((1.0,), (2.0,))
    assert turns == [0, 1]
    soon = replace(bench(Path()), repeats=3, row_s=1e6).begin_row()
    assert soon.turns(ours, None) == ((1.0,) * 3, None)
    assert bench(Path()).begin_row().ends_s is None


@pytest.mark.parametrize(
    ("options", "measured", "ratio", "spread"),
    [
        ({}, Measurement((6.0, 8.0, 30.0), (2.0, 4.0, 6.0)), 2.0, (2.0, 5.0)),
        ({"lower": True}, Measurement((6.0, 8.0, 30.0), (2.0, 4.0, 6.0)), 0.5, (0.2, 0.5)),
        ({"limit": 4.0}, Measurement((6.0, 8.0, 30.0)), 2.0, (1.5, 7.5)),
        ({"limit": 4.0, "lower": True}, Measurement((6.0, 8.0, 30.0)), 0.5, (4 / 30, 4 / 6)),
    ],
)
def test_a_larger_ratio_is_better(options: dict, measured: Measurement, ratio: float, spread: tuple) -> None:
    found = measure_row(RowPlan("row", "peer", "unit", lambda bench: measured, **options), bench(Path()))
    assert (found.ratio, found.spread, found.repeats) == (pytest.approx(ratio), pytest.approx(spread), 3)


def test_what_cannot_be_measured_keeps_its_row() -> None:
    def refuse(given: row.Bench) -> Measurement:
        raise UnavailableError("there is one core")

    found = measure_row(RowPlan("row", "peer", "unit", refuse), bench(Path()))
    assert (found.ours, found.peer, found.ratio, found.note) == (None, None, None, "there is one core")
    assert markdown_table([found]).splitlines()[2] == "| row | peer | - | - | unit | - | - | 1 |"


def bench(folder: Path) -> row.Bench:
    return row.Bench(scale=TINY, repeats=1, scratch=folder)


# -- the views are made ----------------------------------------------------------------------------------------------


def test_our_views_are_those_that_training_replays(photographs: list[bytes]) -> None:
    policy, blocks = rendering_policy(PX), as_blocks(photographs)
    made = render_ours(policy, blocks, 3, turn=2)
    wanted = [view.pixels for block in blocks for view in replay(policy, SEED, block, [6, 7, 8])]
    assert made == (3 * len(photographs), sum(int(pixels[:, PX // 2].sum()) for pixels in wanted))
    assert len({pixels.tobytes() for pixels in wanted}) == 3
    assert render_ours(policy, blocks, 3, turn=3).total != made.total


NUMPYS = {"resizing", "mirroring", "shears, translations", "rotations", "colours"}


@pytest.mark.parametrize("has_markers", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("switch", ["", "off"])
def test_the_note_says_where_our_time_goes(
    photographs: list[bytes], switch: str, has_markers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    policy, render_views = rendering_policy(PX), render_parts if has_markers else render_ours
    blocks = as_blocks([marked_jpeg(decode(image)) for image in photographs] if has_markers else photographs)

    def render_some(turn: int) -> ViewCount:
        made = [render_views(policy, blocks, 2, 4 * turn + part) for part in range(4)]
        return ViewCount(sum(each.views for each in made), sum(each.total for each in made))

    parts = dict(re.findall(r"([a-z, ]+?) (\d+)%", shares(render_some)))
    steps = {step for _, _, step in STEPS} | {"rotations", "the rest"}
    steps -= {"the native library"} if switch == "off" or lacking() else NUMPYS
    steps -= set() if has_markers else {"restart markers"}
    assert {name.removeprefix(", ") for name in parts} == steps
    assert 100 - len(steps) <= sum(map(int, parts.values())) <= 100 + len(steps)
    assert render_ours(policy, blocks, 1, turn=0).views == len(photographs)  # what was patched is as it was
    assert render.resize.__module__ == "teacher_cache.replay.geometry"


def test_both_sides_count_whole_views(photographs: list[bytes]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, PX, PX, 3), np.uint8)
    middle = int(pixels[:, PX // 2].sum())
    assert count_blocks([pixels[:2], pixels[2:]]) == (5, middle)
    assert count_one_by_one(pixels.transpose(0, 3, 1, 2)) == (5, middle)


def test_the_loader_renders_what_is_trained(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "--repeats", "2", "--rows", "stage two, DeiT-Ti")
    (rendered, trained) = map(int, re.findall(r"(\d+) views were rendered.*?(\d+) were trained", str(rows))[0])
    assert trained == 3 * TINY.window_views
    assert abs(rendered - trained) <= 3 * TINY.block_samples  # a block's views are rendered at a time


def test_digests_are_compared_on_one_side_only(tmp_path: Path) -> None:
    (entry,) = rows_of(tmp_path, "--repeats", "1", "--rows", "*digest*").values()
    (checked, unchecked) = map(int, re.findall(r"views compared: (\d+) and (\d+)", entry["note"])[0])
    assert checked >= (TINY.digest_turns + 1) * TINY.loader_batches * 3 * TINY.block_samples
    assert unchecked == 0


# -- peers -----------------------------------------------------------------------------------------------------------


def test_timms_views_are_timms(photographs: list[bytes]) -> None:
    theirs = create_transform(
        input_size=PX,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.0,
        use_prefetcher=True,
    )
    timm_views = TimmViews(PX)
    compared = 0
    for seed in range(40):
        with seeded(seed):
            ours = list(timm_views.views(photographs))
        with seeded(seed):
            try:
                expected = [theirs(Image.open(file).convert("RGB")) for file in map(as_file, photographs)]
            except ValueError:  # 0 bits on Pillow 13
                continue
        compared += 1
        np.testing.assert_array_equal(ours, expected)
    assert compared > 20
    assert ours[0].shape == (3, PX, PX)
    assert ours[0].dtype == np.uint8


def as_file(image: bytes) -> io.BytesIO:
    return io.BytesIO(image)


def test_no_bits_are_black() -> None:
    (posterize,) = (entry for entry in TimmViews(PX).operations if entry.name == "PosterizeIncreasing")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (PX, PX, 3), np.uint8))
    assert not np.asarray(posterize.aug_fn(image, 0)).any()
    np.testing.assert_array_equal(np.asarray(posterize.aug_fn(image, 3)), np.asarray(image) & 0b11100000)


@pytest.mark.skipif(WITHOUT_DALI, reason="DALI is not installed (pip install nvidia-dali-cuda130)")
@pytest.mark.parametrize("fused", [True, False])
def test_dalis_views_vary(photographs: list[bytes], fused: bool) -> None:
    dali = DaliViews(photographs, 224, len(photographs), fused=fused)
    turns = [next(iter(dali.views())).copy() for _ in range(6)]
    for views in turns:
        assert views.shape == (len(photographs), 224, 224, 3)
        assert views.dtype == np.uint8
        assert views.reshape(len(views), -1).std(axis=1).max() > 10
    assert len({view.tobytes() for views in turns for view in views}) > 5 * len(photographs)


def test_made_pictures_are_of_the_size_asked_for() -> None:
    made = make_photographs(24, (120, 150), 9_000, seed=5)
    sizes = np.array([Image.open(as_file(image)).size for image in made])
    assert abs(np.mean([len(image) for image in made]) / 9_000 - 1) < 0.35
    assert (abs(sizes.mean(axis=0) / (150, 120) - 1) < 0.2).all()
    layouts = {Image.open(as_file(image)).layer[0][1:3] for image in made}
    assert layouts == {(1, 1), (2, 2)}


def test_every_commands_start_is_timed() -> None:
    from student.cli import main as student
    from teacher_cache.cli import main as teacher_cache

    assert {"index", "fill", "extend", "status", "verify", "policies"} <= {
        names[0] for names in startup.command_names(teacher_cache) if names
    }
    assert {(), ("train",), ("recipes",), ("recipes", "show")} <= set(startup.command_names(student))


def test_the_slowest_start_counts_and_all_are_told(tmp_path: Path) -> None:
    given = replace(bench(tmp_path), repeats=2)
    sleepy = ("timeit", "-n", "1", "-r", "1", "import time; time.sleep(1)")
    measured = startup.slowest(given, [("json.tool", "--help"), sleepy], 0)
    assert len(measured.ours) == 2
    assert re.fullmatch(r"seconds of 2 commands, medians: \d\.\d\d \S.*, \d\.\d\d \S.*", measured.note)
    assert min(measured.ours) > 1
    assert measured.note.endswith("json.tool --help")
    with pytest.raises(BenchmarkError, match=r"json\.tool nothing\.json ended with [12]: "):
        startup.slowest(given, [("json.tool", "nothing.json")], 0)


def test_starts_are_timed_with_bytecode_that_the_first_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Python is told here: the program notes at each start whether its part was compiled before."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "program"))
    (tmp_path / "program").mkdir()
    (tmp_path / "program/part.py").touch()
    (tmp_path / "program/starting.py").write_text(
        "import importlib.util, os\n"
        f"with open({str(tmp_path / 'seen')!r}, 'a') as seen:\n"
        "    print(os.path.exists(importlib.util.find_spec('part').cached), file=seen)\n"
        "import part\n"
    )
    startup.slowest(replace(bench(tmp_path), repeats=2), [("starting",)], 0)
    assert (tmp_path / "seen").read_text().split() == ["False", "True", "True"]
    assert not list((tmp_path / "program").rglob("*.pyc"))
