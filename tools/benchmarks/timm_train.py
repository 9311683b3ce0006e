"""timm's own train.py, as its users run it: its rate is what its log says."""

import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.benchmarks.row import BenchmarkError, UnavailableError

HOW_TO_GET = (
    "timm's scripts are not in its package: git clone https://github.com/huggingface/pytorch-image-models, and name "
    "its train.py with --timm-train FILE (make: BENCH_TIMM=)"
)
_RATE = re.compile(r"Train: .*?Time: [\d.]+s, +([\d.]+)/s")
SETTLE = 0.5  # of the lines of the log, in which processes start and kernels are tuned


def write_folders(folder: Path, images: Sequence[bytes], copies: int, num_classes: int) -> Path:
    """An image folder, train/CLASS/*.jpg and validation/CLASS/*.jpg, of copies of these images."""
    for number in range(num_classes):
        (folder / "validation" / f"{number:03d}").mkdir(parents=True, exist_ok=True)
        (folder / "train" / f"{number:03d}").mkdir(parents=True, exist_ok=True)
    for number in range(len(images) * copies):
        name = f"{number % num_classes:03d}/{number:06d}.jpg"
        (folder / "train" / name).write_bytes(images[number % len(images)])
    for number in range(num_classes):
        (folder / "validation" / f"{number:03d}" / "0.jpg").write_bytes(images[number % len(images)])
    return folder


def train_rate(
    script: Path | None, data: Path, out: Path, *, batch: int, workers: int, device: str, compiled: bool, limit_s: float
) -> float:
    """Images a second of an online teacher with its token distillation and DeiT's augmentation, in bf16; compiled: of
    a student that its --torchcompile compiles.

    UnavailableError where the script is not there, ends with an error or has not said its rate after limit_s seconds.
    """
    if script is None:
        raise UnavailableError(HOW_TO_GET)
    if not script.is_file():
        raise BenchmarkError(f"{script} is not there: {HOW_TO_GET}")
    command = [
        sys.executable,
        str(script),
        *_words(data, out, batch, workers, device),
        *(["--torchcompile"] if compiled else []),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
        said, ended = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        said, ended = "".join(_text(part) for part in (late.stdout, late.stderr)), 0
    rates = logged_rates(said)
    if ended or not rates:
        why = (said.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"{script} gave no rate: {why} (its pretrained teacher comes from the Hub)")
    return statistics.median(rates)


def logged_rates(log: str) -> list[float]:
    """Images a second of each line of the log, from where it has settled."""
    rates = [float(rate) for rate in _RATE.findall(log)]
    return rates[int(SETTLE * len(rates)) :]


def _text(part: str | bytes | None) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else part or ""


def _words(data: Path, out: Path, batch: int, workers: int, device: str) -> list[str]:
    options = {
        "data-dir": data,
        "output": out,
        "model": "deit_tiny_distilled_patch16_224",
        "num-classes": 1000,
        "kd-model-name": "regnety_160.deit_in1k",
        "kd-distill-type": "token",
        "kd-token-distill-type": "hard",
        "batch-size": batch,
        "workers": workers,
        "device": device,
        "epochs": 1000,
        "opt": "adamw",
        "lr": 1e-3,
        "weight-decay": 0.05,
        "drop-path": 0.1,
        "aa": "rand-m9-mstd0.5-inc1",
        "reprob": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
        "smoothing": 0.1,
        "amp-dtype": "bfloat16",
        "log-interval": 5,
    }
    return [*(f"--{name}={value}" for name, value in options.items()), "--amp"]
