"""Where views are rendered and where a pool lies; and that both ways give the same views, on Triton's interpreter, in a
process of its own."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from student.cli import main as student
from student.loader import ViewLoader
from teacher_cache import open_store
from teacher_cache.cli import main as teacher_cache
from teacher_cache.errors import DeviceError
from teacher_cache.job import Job
from teacher_cache.rendering import choice as rendering
from teacher_cache.rendering.choice import (
    ON_CPU,
    Rendering,
    choose_rendering,
    may_use_device,
    open_render_pool,
    open_replay,
    place_rows,
)
from teacher_cache.rendering.crew import PoolSettings
from teacher_cache.rendering.workers import RenderPool
from teacher_cache.replay.block import replay_view
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.policy import load_policy
from teacher_cache.store.store import Store
from teacher_cache.verify import verify
from tests.replay.gpu.test_gpu import UNABLE, release
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_words
from tests.support.small_runs import SMALL, filled_store
from tests.support.small_runs import student as named

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed, which comes with torch for CUDA"
)


@needs_triton
def test_the_devices_way_on_the_interpreter() -> None:
    if release("triton") < UNABLE and release("numpy") >= (2, 4):
        pytest.skip("the interpreter of this Triton does not go with NumPy 2.4: take a later Triton")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/rendering/interpreted_rendering.py",
            "tests/rendering/interpreted_proof.py",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed in " in done.stdout
    assert not {"skipped", "failed", "error"} & set(done.stdout.splitlines()[-1].replace(",", "").split())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_pool_on_a_device() -> None:
    """Its part of the same tests; the others name Triton's interpreter."""
    words = ["-q", "-p", "no:cacheprovider", "tests/rendering/interpreted_rendering.py", "-k"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *words,
            "digests_are or rows or too_large or undecodable or dies or room or launches or whole or validation",
        ],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


# -- which is chosen -----------------------------------------------------------------------------------------------

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
POLICY = load_policy("deit")  # a view has 150,528 bytes
LEAST = 8 * 64 * 150_528


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A CUDA device as far as a choice goes; how much of it is free, and how much there is."""
    memory = {"free": 10**12, "total": 10**12}
    monkeypatch.setattr(rendering, "describe", lambda device: f"{device} (NVIDIA H100)")
    monkeypatch.setattr(rendering, "free_bytes", lambda device: memory["free"])
    monkeypatch.setattr(rendering, "total_bytes", lambda device: memory["total"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(rendering, "_fault", lambda policy, device: None)  # tests/rendering/interpreted_proof.py has it
    return memory


def test_auto_takes_a_cuda_device_and_says_which(gpu: dict[str, int]) -> None:
    said = "views are rendered on cuda:0 (NVIDIA H100)"
    assert choose_rendering("auto", POLICY, CUDA) == choose_rendering("gpu", POLICY, CUDA) == Rendering(CUDA, said)
    assert choose_rendering("cpu", POLICY, CUDA) == choose_rendering("auto", POLICY, CPU) == ON_CPU


def test_operations_of_the_users_own_are_rendered_on_the_cpu(gpu: dict[str, int]) -> None:
    own = open_operations(f"{ROOT}/tests/support/own_operations.py:operations")
    policy = load_policy("deit", ["size=24"], own)
    for asked in ("auto", "gpu"):
        chosen = choose_rendering(asked, policy, CUDA)
        assert chosen.device is None
        assert chosen.said == ("views are rendered on the CPU: policy deit has operations of its own (darken, roll)")
    assert choose_rendering("auto", policy, CPU) == ON_CPU


def test_a_device_without_room_is_left_to_the_model(gpu: dict[str, int]) -> None:
    gpu["free"] = LEAST
    assert choose_rendering("auto", POLICY, CUDA).device == CUDA
    gpu["free"] -= 1
    chosen = choose_rendering("gpu", POLICY, CUDA)
    assert chosen.device is None
    assert chosen.said == (
        "views are rendered on the CPU: cuda:0 (NVIDIA H100) has 0.1 GB free beside the model, 0.1 are needed"
    )


def test_without_triton_it_is_the_cpu_or_a_refusal(gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    chosen = choose_rendering("auto", POLICY, CUDA)
    assert (chosen.device, "Triton is not installed" in (chosen.said or "")) == (None, True)
    with pytest.raises(DeviceError, match=r"--render gpu, but Triton is not installed.*: leave --render out"):
        choose_rendering("gpu", POLICY, CUDA)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where Triton would not help
    with pytest.raises(DeviceError, match="--render gpu, but torch finds no CUDA device here: leave"):
        choose_rendering("gpu", POLICY, CPU)


def test_rows_lie_on_the_device_within_their_budget(gpu: dict[str, int]) -> None:
    on_device, rows_bytes = Rendering(CUDA), 1000 * 150_528
    gpu["total"] = 4 * rows_bytes
    assert place_rows(on_device, POLICY, 1000, None) == (CUDA, "the shuffle pool of 0.15 GB lies on cuda:0")
    where, said = place_rows(on_device, POLICY, 1001, None)
    assert where == CPU
    assert said == "the shuffle pool of 0.15 GB lies in host memory: it may take 0.15 GB of cuda:0 (--device-pool)"
    assert place_rows(on_device, POLICY, 1001, 0.2)[0] == CUDA
    assert place_rows(on_device, POLICY, 1, 0)[0] == CPU
    gpu["free"] = 9 * rows_bytes  # eight of them are what rendering takes
    assert place_rows(on_device, POLICY, 1000, None)[0] == CUDA
    gpu["free"] -= 1
    where, said = place_rows(on_device, POLICY, 1000, None)
    assert where == CPU
    assert said is not None
    assert said.endswith("in host memory: cuda:0 has 0.15 GB for it beside all else")
    assert place_rows(ON_CPU, POLICY, 1000, None) == (CPU, None)


@pytest.mark.parametrize("budget_gb", [-1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused_wherever_views_are_rendered(
    gpu: dict[str, int], filled: Store, budget_gb: float
) -> None:
    said = rf"device_pool_gb is {budget_gb:g}: give the GB of a device"
    for chosen in (Rendering(CUDA), ON_CPU):
        with pytest.raises(DeviceError, match=said):
            place_rows(chosen, POLICY, 1000, budget_gb)
    with pytest.raises(DeviceError, match=said):
        ViewLoader(filled, 24, epochs=1, render="cpu", device="cpu", device_pool_gb=budget_gb)


@pytest.mark.parametrize("asked", ["GPU", "", None])
def test_a_word_that_is_no_way_of_rendering_is_refused(filled: Store, asked: Any) -> None:
    """Not taken for "auto", nor for "gpu"."""
    said = rf"render is {asked!r}: give 'auto' or 'cpu' or 'gpu'"
    with pytest.raises(DeviceError, match=said):
        choose_rendering(asked, POLICY, CPU)
    with pytest.raises(DeviceError, match=said):
        open_store(str(filled.path)).render(0, 0, render=asked)
    with pytest.raises(DeviceError, match=said):
        verify(filled, 1.0, render=asked, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
@pytest.mark.parametrize("render", ["cpu", "auto", "gpu"])
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", torch.device("cuda")])
def test_the_notebook_refuses_a_device_that_is_not_there(filled: Store, render: Any, device: Any) -> None:
    with pytest.raises(DeviceError, match=rf"--device {device}.* (finds no GPU here|no?t? a device that is served)"):
        open_store(str(filled.path)).render(0, 0, render=render, device=device)


def test_a_replay_on_the_cpu_instead_is_told(gpu: dict[str, int], filled: Store) -> None:
    own = open_operations(f"{ROOT}/tests/support/own_operations.py:operations")
    policy, said = load_policy("deit", ["size=24"], own), list[str]()
    for asked in ("gpu", "cpu"):
        open_replay(asked, policy, 0, "cpu", said.append)
    assert said == ["views are rendered on the CPU: policy deit has operations of its own (darken, roll)"]


def test_a_triton_that_does_not_start_is_told_in_one_line(tmp_path: Path, filled: Store) -> None:
    """One that was built for another machine, for instance: nobody's command ends in its traceback."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('libtriton.so: undefined symbol\\nwhich')\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "TRITON_INTERPRET": "1"}
    words = [sys.executable, "-m", "teacher_cache", "verify", str(filled.path), "--device", "cpu", "--workers", "0"]
    done = subprocess.run([*words, "--render", "gpu"], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (
        1,
        "error: --render gpu, but Triton's interpreter cannot: ImportError: libtriton.so: undefined symbol: "
        "give --render cpu\n",
    )
    program = (
        "import torch; from teacher_cache import device; from teacher_cache.rendering import choice;"
        "assert not device._kernel_gives(torch.rand(3, 256));"
        "from teacher_cache.replay.policy import load_policy; policy = load_policy('none');"
        "choice.describe = str; choice.free_bytes = lambda device: 10**12;"
        "print(choice.choose_rendering('auto', policy, torch.device('cuda', 0)))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert "views are rendered on the CPU: cuda:0 cannot: ImportError: libtriton.so: undefined symbol" in done.stdout, (
        done.stderr
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (Rendering(CUDA, "on cuda:0"), Rendering(CUDA, "on cuda:1"), ["on cuda:0"]),
        (Rendering(CUDA, "on cuda:0"), Rendering(None, "no room"), ["on cuda:0", "rank 1: no room"]),
        (Rendering(None, "no room"), Rendering(None, "no room"), ["no room"]),
        (Rendering(None, "no room"), Rendering(CUDA, "on cuda:1"), ["no room"]),
        (ON_CPU, Rendering(None, "no room"), ["rank 1: no room"]),
        (ON_CPU, ON_CPU, []),
    ],
)
@pytest.mark.parametrize("early", [0, 1])
def test_a_rank_says_where_it_renders_if_it_is_worse_off_than_the_first(
    first: Rendering, second: Rendering, said: list[str], early: int
) -> None:
    store, heard = torch.distributed.HashStore(), list[str]()
    ranks = [(chosen, Job(rank, 2, CPU, store, timeout_s=60)) for rank, chosen in enumerate((first, second))]
    with ThreadPoolExecutor(2) as threads:  # whichever comes first
        done = [threads.submit(chosen.tell, job, heard.append) for chosen, job in (ranks[early], ranks[1 - early])]
        for each in done:
            each.result()
    assert sorted(heard) == sorted(said)


def test_what_may_come_is_known_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rendering, "DEVICE_FILES", (str(tmp_path / "none"),))
    assert [may_use_device(asked) for asked in ("auto", "cpu", "gpu")] == [False, False, True]
    monkeypatch.setattr(rendering, "DEVICE_FILES", (str(tmp_path),))
    assert [may_use_device(asked) for asked in ("auto", "cpu", "gpu")] == [True, False, True]


def test_where_no_device_can_be_a_replay_brings_no_torch() -> None:
    program = (
        "import sys; from teacher_cache.rendering import choice as rendering;"
        "from teacher_cache.replay.policy import load_policy;"
        "rendering.DEVICE_FILES = (); rendering.open_replay('auto', load_policy('none'), 0);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return filled_store(tmp_path_factory.mktemp("filled"), counts=(64,))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_gpu_without_a_gpu_refuses_in_one_line(tmp_path: Path, filled: Store) -> None:
    said = "error: --render gpu, but torch finds no CUDA device here: leave --render out to use what there is\n"
    empty = bright_store(tmp_path, counts=(64,))
    model = named("two_heads").removeprefix("model=")
    train = ["train", str(filled.path), "--recipe", SMALL, "--model", model, "--workers", "0", "--device", "cpu"]
    for main, words in (
        (teacher_cache, fill_words(empty.path, "--render", "gpu")),
        (teacher_cache, fill_words(empty.path, "--render", "gpu", "--estimate")),
        (teacher_cache, ["verify", str(filled.path), "--render", "gpu"]),
        (student, [*train, "--out", str(tmp_path / "run"), "--render", "gpu"]),
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1, done.output
        assert done.output.endswith(said)
    with pytest.raises(DeviceError, match="torch finds no CUDA device here"):
        ViewLoader(filled, 24, epochs=1, render="gpu", device=CPU)


def test_on_the_cpu_nothing_is_said_and_nothing_changes(filled: Store) -> None:
    said: list[str] = []
    with ViewLoader(filled, 24, epochs=1, workers=0, device="cpu") as loader:
        loader.announce(said.append)
        assert next(iter(loader)).views.device == loader.rows_device == CPU
        assert isinstance(loader._pool, RenderPool)
    assert not any("render" in line or "pool" in line for line in said[:-1])
    with open_render_pool(ON_CPU, PoolSettings(filled.policy, filled.seed, workers=0), print) as pool:
        assert isinstance(pool, RenderPool)
    assert open_replay("auto", filled.policy, filled.seed, "cpu").func is replay_view
