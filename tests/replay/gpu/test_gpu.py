"""The kernels' bytes are the CPU's: on Triton's interpreter always, on a device where there is one."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
import torch

from teacher_cache.errors import PolicyError
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.policy import load_policy

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed, which comes with torch for CUDA"
)
UNABLE = (3, 8)  # the interpreter of Triton 3.6 cannot loop up to a loaded number under NumPy 2.4, that of 3.8 can
WARNS = "ignore:Conversion of an array with ndim > 0"  # NumPy, of the interpreter of Triton 3.2
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split(".")[:2])


def test_every_kernel_makes_the_cpus_bytes_on_the_interpreter() -> None:
    if release("triton") < UNABLE and release("numpy") >= (2, 4):
        pytest.skip("the interpreter of this Triton does not go with NumPy 2.4: take a later Triton")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", WARNS, "-m", "tests.replay.gpu.interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 40
    assert [line for line in lines if not line.startswith("equal\t")] == []


def test_every_launch_compiles_for_a_device_and_spills_next_to_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.replay.gpu.compiled", "32"],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ") for line in done.stdout.splitlines())
    kernels = {
        *("resize_across", "resize_down", "look_up", "count_levels", "sum_grey", "tables_of_counts", "tables_of_sums"),
        *("blend_with_grey", "sharpen", "shift_hue", "move_lines", "rotate", "erase", "mix"),
        *("block_sums", "chain_blocks", "normalise"),
    }
    assert {name.split()[0] for name in lines} == kernels
    assert all(int(line.split(", ")[1].split()[0]) <= 64 for line in lines.values()), lines


def test_without_triton_the_tests_are_found_all_the_same() -> None:
    """Those that need it are skipped; all others run."""
    hidden = "import sys, pytest; sys.modules['triton'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    done = subprocess.run([sys.executable, "-c", hidden, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]


def test_own_operations_render_on_the_cpu() -> None:
    from teacher_cache.replay.gpu.render import Renderer

    own = open_operations(f"{ROOT}/tests/support/own_operations.py:operations")
    with pytest.raises(
        PolicyError, match=r"policy deit has operations of its own \(darken, roll\).*: render it on the"
    ):
        Renderer(load_policy("deit", ["size=24"], own), torch.device("cpu"))


def test_every_kernel_is_launched_on_its_tensors_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current one, which need not be that of a policy's views."""
    from triton.runtime import JITFunction

    from teacher_cache.rendering.device_proof import MadeUpBlock, telling_views
    from teacher_cache.replay.gpu import hash_kernels, kernels
    from tests.replay.gpu import on_device

    current, launched = list[torch.Tensor](), set[str]()

    @contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        current.append(tensor)
        yield
        current.pop()

    class Launcher:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert len(current) == 1, self.name
            launched.add(self.name)
            return lambda *given, **constants: None

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    names = [(module, name) for module in (kernels, hash_kernels) for name in vars(module)]
    for module, name in names:
        if isinstance(getattr(module, name), JITFunction):
            monkeypatch.setattr(module, name, Launcher(name))
    cpu, policy = torch.device("cpu"), load_policy("deit", ["size=24"])
    list(on_device.normalised(cpu))
    list(on_device.hashes(cpu))
    list(on_device.blocks(policy, [MadeUpBlock((24, 24))], telling_views(policy, MadeUpBlock((24, 24))), "deit", cpu))
    assert launched >= {"normalise", "resize_across", "resize_down", "look_up", "rotate", "erase", "mix"}
    assert launched >= {"block_sums", "chain_blocks"}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one_makes_the_cpus_bytes() -> None:
    from teacher_cache.rendering.device_proof import MadeUpBlock
    from tests.replay.gpu import on_device

    policy, other = load_policy("deit", ["size=24"]), torch.device("cuda", 1)
    assert torch.cuda.current_device() == 0
    lines = list(on_device.blocks(policy, [MadeUpBlock((24, 24))], [0, 1], "deit", other))
    lines += [*on_device.normalised(other), *on_device.hashes(other)]
    assert [line for line in lines if not line.is_equal] == []


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("part", ["crops", "operations", "erasing"])
def test_every_kernel_makes_the_cpus_bytes_on_a_device(part: str) -> None:
    from tests.replay import equality
    from tests.replay.gpu import on_device

    render = partial(on_device.rendered, torch.device("cuda"))
    lines = list(getattr(equality, part)(equality.pictures(8, 390, 480), (224, 224), 16, render))
    assert lines
    assert [line for line in lines if not line.is_equal] == []


@pytest.mark.gpu
@needs_gpu
def test_all_levels_are_given_to_models_as_on_the_cpu() -> None:
    from tests.replay.gpu import on_device

    assert [line for line in on_device.normalised(torch.device("cuda")) if not line.is_equal] == []


@pytest.mark.gpu
@needs_gpu
def test_hashes_are_xxh3_on_a_device() -> None:
    from tests.replay.gpu import on_device

    assert [line for line in on_device.hashes(torch.device("cuda")) if not line.is_equal] == []


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("size", [(224, 224), (23, 37)])
def test_whole_policies_make_the_cpus_bytes_and_digests_on_a_device(size: tuple[int, int]) -> None:
    from tests.replay import equality
    from tests.replay.gpu import on_device
    from tests.support.decoded import decoded_block

    decoded = [
        decoded_block(equality.pictures(12, 390, 480), frozenset({4})),
        decoded_block(equality.pictures(3, 5, 9), number=1),
    ]
    for name, policy in equality.policies(size).items():
        words = (policy, decoded, [0, 2], name, torch.device("cuda"))
        lines = [*on_device.blocks(*words), *on_device.joined(*words)]
        assert [line for line in lines if not line.is_equal] == []
