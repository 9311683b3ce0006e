"""Every set of kernels against plain's bytes, and the library's bounds: fuzz_kernels.c, sanitized and on arm64. What is
drawn and planned, the same everywhere: fuzz_draws.c."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from teacher_cache.replay.native import library
from tests.replay.native import installed

KERNELS, DRAWS = (Path(__file__).with_name(name) for name in ("fuzz_kernels.c", "fuzz_draws.c"))
INCLUDED = {KERNELS: {"views.c"}, DRAWS: {"draw.c", "pairs.c", "plan.c"}}  # by the fuzz itself
SOURCES = Path(library.__file__).parent
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ROUNDS = os.environ.get("TEACHER_CACHE_FUZZ_ROUNDS", "250")


def compiled(compiler: Sequence[str], options: Sequence[str], to: Path, fuzz: Path = KERNELS) -> Path:
    """A fuzz with the library's sources in it."""
    sources = [str(path) for path in sorted(SOURCES.glob("*.c")) if path.name not in INCLUDED[fuzz]]
    command = [*compiler, "-std=c11", "-ffp-contract=off", *WARNINGS, *options, f"-I{SOURCES}", str(fuzz), *sources]
    done = subprocess.run([*command, "-lm", "-o", str(to)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return to


def fuzzed(command: Sequence[str], rounds: str = ROUNDS) -> list[str]:
    """The names of the kernels that ran."""
    done = subprocess.run([*command, rounds], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    names, _, said = done.stdout.partition("\n")
    assert said == f"{rounds} rounds of seed 7\n"
    return names.split()


def hash_drawn(command: Sequence[str], rounds: str = ROUNDS) -> str:
    """Of what fuzz_draws.c has drawn and planned."""
    done = subprocess.run([*command, rounds], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    said, _, drawn = done.stdout.strip().partition(": ")
    assert said == f"{rounds} rounds of seed 7"
    return drawn


def compiler_here() -> str:
    found = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found is None:
        pytest.skip("needs a C compiler: cc, gcc or clang")
    return found


def can_compile(options: Sequence[str], folder: Path) -> bool:
    trial = folder / "trial.c"
    trial.write_text("int main(void) { return 0; }\n")
    command = [compiler_here(), *options, str(trial), "-o", str(folder / "trial")]
    return subprocess.run(command, capture_output=True).returncode == 0 and not subprocess.call([folder / "trial"])


def test_every_set_of_kernels_has_plain_s_bytes_and_nothing_is_read_or_written_out_of_bounds(tmp_path: Path) -> None:
    sanitizers = SANITIZERS if can_compile(SANITIZERS, tmp_path) else ()
    names = fuzzed([str(compiled([compiler_here()], ("-O1", "-g1", *sanitizers), tmp_path / "fuzz"))])
    assert names[-1] == "plain"
    assert set(names) <= set(library.KERNELS)
    loaded = library.load()
    if loaded is not None:
        assert names[0] == library.opened(loaded, "").kernels


def test_what_is_drawn_and_planned_stays_in_bounds_and_is_the_same_optimised(tmp_path: Path, drawing: Path) -> None:
    sanitizers = SANITIZERS if can_compile(SANITIZERS, tmp_path) else ()
    sanitized = compiled([compiler_here()], ("-O1", "-g1", *sanitizers), tmp_path / "fuzz", DRAWS)
    assert hash_drawn([str(sanitized)]) == hash_drawn([str(drawing)])


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled([compiler_here()], ("-O3",), tmp_path_factory.mktemp("drawing") / "fuzz", DRAWS)


@pytest.fixture(scope="module")
def optimised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled([compiler_here()], ("-O3",), tmp_path_factory.mktemp("optimised") / "fuzz")


def test_optimised_kernels_have_plain_s_bytes(optimised: Path) -> None:
    assert "plain" in fuzzed([str(optimised)])


def emulator(processor: str) -> str:
    found = shutil.which(f"qemu-{processor}-static") or shutil.which(f"qemu-{processor}")
    if found is None:
        pytest.skip(f"needs QEMU's user emulation: qemu-{processor}-static or qemu-{processor}")
    return found


def arm_compiler(kind: str) -> list[str]:
    if kind == "gcc":
        if shutil.which("aarch64-linux-gnu-gcc") is None:
            pytest.skip("needs aarch64-linux-gnu-gcc")
        return ["aarch64-linux-gnu-gcc"]
    if shutil.which("zig") is not None:
        zig = ["zig"]
    elif importlib.util.find_spec("ziglang") is not None:
        zig = [sys.executable, "-m", "ziglang"]
    else:
        pytest.skip("needs zig, which PyPI has as ziglang")
    return [*zig, "cc", "-target", "aarch64-linux-musl", "-mcpu=generic"]


@pytest.mark.parametrize("kind", ["gcc", "zig"])
def test_kernels_for_arm64_have_plain_s_bytes(kind: str, tmp_path: Path) -> None:
    emulated = emulator("aarch64")
    program = compiled(arm_compiler(kind), ("-O3", "-static"), tmp_path / "fuzz")
    assert fuzzed([emulated, str(program)], "60") == ["neon", "plain"]


@pytest.mark.parametrize("kind", ["gcc", "zig"])
def test_what_is_drawn_and_planned_on_arm64_is_what_it_is_here(kind: str, tmp_path: Path, drawing: Path) -> None:
    emulated = emulator("aarch64")
    program = compiled(arm_compiler(kind), ("-O3", "-static"), tmp_path / "fuzz", DRAWS)
    assert hash_drawn([emulated, str(program)]) == hash_drawn([str(drawing)])


PROCESSORS = {
    "Conroe": ["plain"],
    "Nehalem,-ssse3": ["plain"],
    "Nehalem,-sse4.1": ["plain"],
    "Nehalem": ["sse41", "plain"],
    "Haswell,-xsave": ["sse41", "plain"],
    "Haswell,-avx2": ["sse41", "plain"],
    "Haswell,-bmi2": ["sse41", "plain"],
    "Haswell": ["avx2", "sse41", "plain"],
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_processor_runs_what_it_has(processor: str, optimised: Path, drawing: Path) -> None:
    """Emulated, with features forced off one by one: an instruction that the processor lacks ends the program."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip(f"needs Linux on x86-64, not {platform.system()} on {platform.machine()}")
    emulated = [emulator("x86_64"), "-cpu", processor]
    if "Haswell" in processor and "TCG doesn't support requested feature: CPUID.07H:EBX.avx2" in told(emulated):
        pytest.skip("needs QEMU 7.2, the first that has AVX2")
    assert fuzzed([*emulated, str(optimised)], "60") == PROCESSORS[processor]
    assert hash_drawn([*emulated, str(drawing)]) == hash_drawn([str(drawing)])


def told(command: Sequence[str]) -> str:
    """By an emulator, of the processor that it is to be."""
    return subprocess.run([*command, "/bin/true"], capture_output=True, text=True).stderr


@pytest.mark.skipif(library.load() is None, reason="the native library is not built")
def test_what_wheels_are_tested_by_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    installed.main()
    held = library.workspace()
    assert held is not None
    assert capsys.readouterr().out == f"{installed.NUM_VIEWS} views rendered with {held.kernels}\n"
