"""Does it cost accuracy that a sample is only ever mixed with samples of its own block?

    python docs/experiments/partners.py --train 'cifar10/train-*.tar' --val 'cifar10/test-*.tar' --out partners.jsonl
    python docs/experiments/partners.py --out partners.jsonl --report

A small vision transformer is trained with DeiT's Mixup and CutMix (alphas 0.8 and 1.0, one of the two at random, label
smoothing 0.1) on pictures of 32 x 32, once for each way to find partners: random pairs within fixed blocks of 8 or of
64 samples, as replay does, or within the whole set. Blocks of 8 repeat a partner at 40 epochs as often as blocks of 64
do at 300. A seed fixes initial weights, order, crops, flips, lambdas and boxes: its runs differ in partners alone, so
what is compared is the difference of two runs of a seed. A run that --out has already is not made again.
"""

import glob
import io
import json
import math
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import scipy.stats
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

SIZE, CLASSES = 32, 10
SMOOTHING = 0.1
MIXUP_ALPHA, CUTMIX_ALPHA = 0.8, 1.0
WHOLE = 0  # as a block's size: partners from the whole set
BLOCKS = (8, 64, WHOLE)
BATCH, LR, WEIGHT_DECAY, WARMUP_EPOCHS = 512, 1e-3, 0.05, 3


class Pictures(NamedTuple):
    images: Tensor  # (N, 3, 32, 32) uint8
    classes: Tensor  # (N,) int64


class Mix(NamedTuple):
    """How the samples of an epoch are mixed, by their number in the set."""

    partner: Tensor  # (N,) int64, its own number where a sample has none
    share: Tensor  # (N,) float, of the sample's own in picture and target
    box: Tensor  # (N, 4) int64: top, left, bottom, right of what is pasted; empty under Mixup
    blends: Tensor  # (N,) bool: Mixup


def read_pictures(pattern: str, device: torch.device) -> Pictures:
    """The pictures of WebDataset shards: members KEY.jpg and KEY.cls."""
    images, classes = {}, {}
    for shard in sorted(glob.glob(pattern)):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                content = tar.extractfile(member).read()
                if kind == "cls":
                    classes[shard, key] = int(content)
                elif kind in ("jpg", "jpeg", "png"):
                    images[shard, key] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    pixels = torch.from_numpy(np.stack([images[name] for name in classes])).permute(0, 3, 1, 2)
    return Pictures(pixels.contiguous().to(device), torch.tensor(list(classes.values()), device=device))


def find_partners(num_samples: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """Random pairs within blocks of consecutive samples -> each sample's partner, its own number for an odd one out."""
    partner = np.arange(num_samples)
    block = block or num_samples
    for first in range(0, num_samples, block):
        order = first + rng.permutation(min(block, num_samples - first))
        paired = order[: len(order) // 2 * 2].reshape(-1, 2)
        partner[paired[:, 0]], partner[paired[:, 1]] = paired[:, 1], paired[:, 0]
    return partner


def draw_mix(num_samples: int, block: int, seed: int, epoch: int, device: torch.device) -> Mix:
    """One epoch's mix. Lambdas and boxes are drawn by sample; a pair takes those of the lower number."""
    partner = find_partners(num_samples, block, np.random.default_rng([seed, epoch, 1]))
    rng = np.random.default_rng([seed, epoch, 2])
    blends = rng.random(num_samples) < 0.5
    share = np.where(
        blends, rng.beta(MIXUP_ALPHA, MIXUP_ALPHA, num_samples), rng.beta(CUTMIX_ALPHA, CUTMIX_ALPHA, num_samples)
    )
    half = np.sqrt(1 - share) * SIZE / 2
    centre = rng.integers(0, SIZE, (2, num_samples))
    low, high = (np.clip(np.rint(centre + sign * half), 0, SIZE).astype(np.int64) for sign in (-1, 1))
    box = np.stack([low[0], low[1], high[0], high[1]], axis=1)
    pasted = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / SIZE**2
    share = np.where(blends, share, 1 - pasted)
    leader = np.minimum(np.arange(num_samples), partner)
    alone = partner == np.arange(num_samples)
    share, blends, box = np.where(alone, 1.0, share[leader]), blends[leader] | alone, box[leader]
    arrays = partner, share.astype(np.float32), box, blends
    return Mix(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays))


def augment(images: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Random crops of the picture padded by 4, mirrored or not, normalised. (B, 3, 32, 32) uint8 -> the same, float."""
    padded = functional.pad(images.float().div(127.5).sub(1), (4, 4, 4, 4))
    steps = torch.arange(SIZE, device=images.device)
    columns = torch.where(flips[:, None], steps.flip(0), steps) + offsets[:, 1, None]
    rows = steps + offsets[:, 0, None]
    samples = torch.arange(len(images), device=images.device)
    return padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def batches(data: Pictures, block: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's mixed pictures (512, 3, 32, 32) and targets (512, 10). A view is the same wherever it is shown."""
    device, num_samples = data.images.device, len(data.images)
    rng = np.random.default_rng([seed, epoch, 0])
    order = torch.from_numpy(rng.permutation(num_samples)).to(device)
    offsets = torch.from_numpy(rng.integers(0, 9, (num_samples, 2))).to(device)
    flips = torch.from_numpy(rng.random(num_samples) < 0.5).to(device)
    mix = draw_mix(num_samples, block, seed, epoch, device)
    targets = functional.one_hot(data.classes, CLASSES) * (1 - SMOOTHING) + SMOOTHING / CLASSES
    steps = torch.arange(SIZE, device=device)
    for own in order[: num_samples // BATCH * BATCH].split(BATCH):
        other = mix.partner[own]
        mine, theirs = (augment(data.images[which], offsets[which], flips[which]) for which in (own, other))
        share, box = mix.share[own, None, None, None], mix.box[own]
        rows = (steps >= box[:, 0, None]) & (steps < box[:, 2, None])
        columns = (steps >= box[:, 1, None]) & (steps < box[:, 3, None])
        pasted = torch.where(rows[:, None, :, None] & columns[:, None, None, :], theirs, mine)
        views = torch.where(mix.blends[own, None, None, None], share * mine + (1 - share) * theirs, pasted)
        yield views, share[:, :, 0, 0] * targets[own] + (1 - share[:, :, 0, 0]) * targets[other]


def rate(step: int, steps_per_epoch: int, epochs: int) -> float:
    """A ramp, then half a cosine to nothing."""
    warmup = WARMUP_EPOCHS * steps_per_epoch
    if step < warmup:
        return LR * (step + 1) / warmup
    return LR * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (epochs * steps_per_epoch - warmup)))


def make_model(seed: int, device: torch.device) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(
        img_size=SIZE, patch_size=4, embed_dim=192, depth=6, num_heads=3, num_classes=CLASSES, drop_path_rate=0.05
    ).to(device)


def train(forward: torch.nn.Module, data: Pictures, val: Pictures, block: int, seed: int, epochs: int) -> float:
    """One run from a seed's initial weights -> top-1 in percent after the last epoch. forward: compiled once."""
    device = data.images.device
    model = forward._orig_mod if hasattr(forward, "_orig_mod") else forward
    model.load_state_dict(make_model(seed, device).state_dict())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=device.type == "cuda")
    step, steps_per_epoch = 0, len(data.images) // BATCH
    for epoch in range(epochs):
        for views, targets in batches(data, block, seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps_per_epoch, epochs)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = forward(views)
            loss = functional.cross_entropy(logits.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    return evaluate(model.eval(), val)


@torch.inference_mode()
def evaluate(model: torch.nn.Module, val: Pictures) -> float:
    right = 0
    for images, classes in zip(val.images.split(2000), val.classes.split(2000), strict=True):
        right += int((model(images.float().div(127.5).sub(1)).argmax(1) == classes).sum())
    return 100 * right / len(val.classes)


def report(out: Path) -> None:
    """Means by way, and each way's paired difference to the whole set with its 95 % interval (Student's t)."""
    runs = [json.loads(line) for line in out.read_text().splitlines()]
    top1 = {(run["block"], run["seed"]): run["top1"] for run in runs}
    for block in BLOCKS:
        found = np.array([value for (size, _), value in top1.items() if size == block])
        if len(found) < 2:
            continue
        line = f"{f'blocks of {block}' if block else 'the whole set':14}  top-1 {found.mean():.2f}"
        line += f" (standard error {found.std(ddof=1) / len(found) ** 0.5:.2f}, {len(found)} seeds)"
        seeds = [seed for (size, seed) in top1 if size == block and (WHOLE, seed) in top1]
        if block != WHOLE and len(seeds) > 1:
            apart = np.array([top1[block, seed] - top1[WHOLE, seed] for seed in seeds])
            half = scipy.stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5
            line += f"; less the whole set {apart.mean():+.2f}, 95 % within {half:.2f} ({len(apart)} pairs)"
        click.echo(line)


def missing_runs(out: Path, seeds: range) -> Iterator[tuple[int, int]]:
    """Block and seed of what --out has not yet, seed by seed."""
    runs = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(run["block"], run["seed"]) for run in runs}
    return ((block, seed) for seed in seeds for block in BLOCKS if (block, seed) not in done)


@click.command()
@click.option("--train", "train_shards", help="Training shards: a glob.")
@click.option("--val", "val_shards", help="Validation shards: a glob.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="One line of JSON a run; gone on with.")
@click.option("--seeds", type=int, default=8, show_default=True)
@click.option("--first-seed", type=int, default=0, show_default=True, help="Processes may share the seeds and --out.")
@click.option("--epochs", type=int, default=40, show_default=True)
@click.option("--samples", type=int, help="Only the first so many of training.")
@click.option("--within-s", type=float, default=math.inf, help="No run is begun that would end later than this.")
@click.option("--report", "only_report", is_flag=True, help="Train nothing, say what --out has.")
def main(
    train_shards: str,
    val_shards: str,
    out: Path,
    seeds: int,
    first_seed: int,
    epochs: int,
    samples: int | None,
    within_s: float,
    only_report: bool,
) -> None:
    begun = time.monotonic()
    if not only_report:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data, val = read_pictures(train_shards, device), read_pictures(val_shards, device)
        data = Pictures(data.images[:samples], data.classes[:samples])
        model = make_model(0, device)
        forward = torch.compile(model) if device.type == "cuda" else model
        longest = 0.0
        for block, seed in missing_runs(out, range(first_seed, first_seed + seeds)):
            start = time.monotonic()
            if start - begun + longest > within_s:
                break
            run = {"block": block, "seed": seed, "epochs": epochs, "samples": len(data.images)}
            run["top1"] = train(forward, data, val, block, seed, epochs)
            longest = time.monotonic() - start
            with out.open("a") as lines:
                lines.write(json.dumps(run) + "\n")
            click.echo(f"{run} {time.monotonic() - start:.1f} s")
    report(out)


if __name__ == "__main__":
    main()
