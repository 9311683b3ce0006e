"""Every kernel compiled for a device that need not be there: `python -m tests.replay.gpu.compiled` prints registers and
spilled bytes a thread. What is compiled are the very launches of whole policies, noted on their way to the device."""

import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from teacher_cache.replay.gpu import hash_kernels, kernels
from teacher_cache.replay.gpu import render as gpu
from teacher_cache.replay.gpu.normalise import normalised
from tests.replay import equality
from tests.support.decoded import decoded_block

POINTERS = {torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64"}
HOPPER = GPUTarget("cuda", 90, 32)


class Launch(NamedTuple):
    """A kernel with the types of its arguments and its constants, by name."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    num_warps: int


class _Noting:
    """In a kernel's place."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert 0 < grid[0] < 1 << 31

        def launch(*values: Any, num_warps: int = 4, **named: Any) -> None:
            parameters = self.kernel.params
            assert [parameter.name for parameter in parameters[len(values) :]] == list(named), self.kernel
            signature, constants = [], []
            for parameter, value in zip(parameters, (*values, *named.values()), strict=True):
                if parameter.is_constexpr:
                    signature.append((parameter.name, "constexpr"))
                    constants.append((parameter.name, value))
                elif isinstance(value, torch.Tensor):
                    signature.append((parameter.name, POINTERS[value.dtype]))
                else:
                    signature.append((parameter.name, parameter.annotation_type or "i32"))
            noted = Launch(self.kernel, tuple(signature), tuple(constants), num_warps)
            if noted not in self.launches:
                self.launches.append(noted)

        return launch


@contextmanager
def noted() -> Iterator[list[Launch]]:
    """Launches made meanwhile are noted, and not carried out."""
    launches: list[Launch] = []
    jitted = [
        (module, name, value)
        for module in (kernels, hash_kernels)
        for name, value in vars(module).items()
        if isinstance(value, triton.runtime.JITFunction) and not name.startswith("_") and name != "high_word"
    ]
    for module, name, value in jitted:
        setattr(module, name, _Noting(value, launches))
    try:
        yield launches
    finally:
        for module, name, value in jitted:
            setattr(module, name, value)


def launches_of_policies(size: tuple[int, int]) -> list[Launch]:
    decoded = [decoded_block(equality.pictures(8, 60, 80))]
    with noted() as launches:
        for policy in equality.policies(size).values():
            gpu.render_blocks(gpu.Renderer(policy, torch.device("cpu")), equality.SEED, decoded, list(range(12)))
        for dtype in (torch.float32, torch.bfloat16):
            normalised(torch.zeros((2, *size, 3), dtype=torch.uint8), torch.zeros((3, 256), dtype=dtype))
    return launches


def compiled(launch: Launch) -> Any:
    known = inspect.signature(ASTSource).parameters
    constants = {"constexprs" if "constexprs" in known else "constants": dict(launch.constants)}  # Triton 3.2's name
    source = ASTSource(fn=launch.kernel, signature=dict(launch.signature), **constants)
    return triton.compile(source, target=HOPPER, options={"num_warps": launch.num_warps})


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack, a thread."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tools / "cuobjdump", "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", said).groups()
    return int(registers), int(stack)


def main() -> None:
    height = width = int(sys.argv[1]) if len(sys.argv) > 1 else 224
    for launch in launches_of_policies((height, width)):
        binary = compiled(launch)
        registers, spilled = resources(binary.asm["cubin"])
        constants = " ".join(str(value) for _, value in launch.constants)
        print(f"{launch.kernel.__name__} {constants}: {registers} registers, {spilled} bytes spilled", flush=True)


if __name__ == "__main__":
    main()
