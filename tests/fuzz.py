"""Damaged and made-up inputs by the hundred thousand, run by hand: python -m tests.fuzz --inputs 1000000 --seed 1

Every input must end in an error of this program's tree, one printable line, or in something sound. What ends otherwise
is kept in --out with its traceback. Targets: the tar walk, images, settings files, a store's documents, checkpoints.
"""

import io
import json
import random
import sys
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch

from student.recipe import load_recipe
from student.trained import read_trained
from teacher_cache.errors import TeacherCacheError
from teacher_cache.replay.decode import decode
from teacher_cache.replay.policy import load_policy
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.walk import index_shard
from teacher_cache.store.published import SEAL
from teacher_cache.store.schema import created_parts, views_sha256
from teacher_cache.store.sealed import seal
from teacher_cache.store.store import Store
from tests.support import images
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.trained_files import checkpoint

SLOW_S = 5.0
SHARES = {"walk": 0.35, "decode": 0.35, "settings": 0.22, "store": 0.05, "checkpoint": 0.03}
TOKENS = [
    b"\x00",
    b"\xff",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"ustar\x0000",
    b"[",
    b"{",
    b'"',
    b"=",
    b"\n",
    b"1e999",
]
TOKENS += [b"9" * 30, b"-1", b"NaN", b"true", b"null", b"../..", b"\x1b[2J", "\u202e".encode(), b"[" * 200, b"x:y"]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    10**6,
    10**12,
    2**63,
    -(2**63),
    1.5,
    "x",
    "subprocess:getoutput",
    "\x1b[2J",
    [],
    {},
]
VALUES += [[1, 2], {"a": 1}, ["x"] * 5, "a" * 10_000, [[[[]]]], "nan"]

Target = Callable[[random.Random], None]


def mutated(draw: random.Random, content: bytes) -> bytes:
    """A few bytes flipped, overwritten, left out, doubled, or another's."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(len(data) + 1)
        length = draw.choice((1, 2, 8, 64, 512))
        match draw.randrange(6):
            case 0 if data:
                data[place % len(data)] ^= 1 << draw.randrange(8)
            case 1:
                data[place : place + length] = draw.randbytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                data[place:place] = draw.choice(TOKENS)
            case _:
                del data[place:]
    return bytes(data)


def changed(draw: random.Random, document: Any) -> Any:
    """Plain values of which a few are something else."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 2, 3))):
        inner, path = copy, []
        while isinstance(inner, dict | list) and inner and (not path or draw.random() < 0.7):
            name = draw.choice(list(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
            path.append((inner, name))
            inner = inner[name]
        if path:
            holder, name = path[-1]
            if draw.random() < 0.15:
                del holder[name]
            else:
                holder[name] = json.loads(json.dumps(draw.choice(VALUES)))
    return copy


# -- targets ---------------------------------------------------------------------------------------------------------


def walk_target(folder: Path) -> Target:
    image = images.png(images.picture(0, 8, 8))
    archives = []
    for kind, prefix in (
        (tarfile.USTAR_FORMAT, "d" * 60 + "/"),
        (tarfile.GNU_FORMAT, "g" * 150),
        (tarfile.PAX_FORMAT, "é"),
    ):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
            for number in range(3):
                pictures = (("png", image), ("left.png", image))
                for extension, content in (*pictures, ("cls", b"%d" % number), ("json", b'{"c": 1, "d": {"c": 1}}')):
                    member = tarfile.TarInfo(f"{prefix}{number}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        archives.append(stream.getvalue())
    file = folder / "a.tar"
    rules = [ClassRule(), ClassRule("json:c"), ClassRule("json:d.c"), ClassRule("cls", ("a", "b", "c"))]
    rules += [ClassRule(image_from="left.png"), ClassRule("json:d", image_from="png")]

    def target(draw: random.Random) -> None:
        content = mutated(draw, draw.choice(archives))
        file.write_bytes(content)
        found = index_shard(str(file), draw.choice(rules))
        assert len(found.keys) == len(set(found.keys)) == len(found.classes) == len(found.fingerprints)
        assert (found.offsets >= 0).all()
        assert (found.offsets + found.sizes <= len(content)).all()

    return target


def decode_target(folder: Path) -> Target:
    pixels = images.picture(1, 24, 32)
    whole = [images.png(pixels), images.webp(pixels), images.jpeg(pixels), images.jpeg(pixels, progressive=True)]
    whole += [images.grey_jpeg(pixels), images.cmyk_jpeg(pixels), images.split_jpeg(pixels)]

    def target(draw: random.Random) -> None:
        found = decode(mutated(draw, draw.choice(whole)), 10**6)
        assert found.ndim == 3
        assert found.shape[2] == 3
        assert found.dtype == np.uint8
        assert found.shape[0] * found.shape[1] <= 10**6

    return target


def settings_target(folder: Path) -> Target:
    root = Path(__file__).parents[1]
    policies = [file.read_bytes() for file in (root / "teacher_cache/replay/policies").glob("*.toml")]
    recipes = [file.read_bytes() for file in (root / "student/recipes").glob("*.toml")]
    file = folder / "settings.toml"
    keys = [
        "lr",
        "epochs",
        "model",
        "model_args.depth",
        "crop.scale",
        "size",
        "mix",
        "erase.count",
        "flip",
        "base",
        "name",
    ]

    def target(draw: random.Random) -> None:
        load, texts = draw.choice(((load_policy, policies), (load_recipe, recipes)))
        file.write_bytes(mutated(draw, draw.choice(texts)))
        overrides = []
        if draw.random() < 0.5:
            value = mutated(draw, draw.choice((b"0.5", b"[1, 2]", b'"word"', b"{a = 1}"))).decode(errors="replace")
            overrides = [f"{draw.choice(keys)}={value}"]
        load(str(file), overrides)

    return target


def store_target(folder: Path) -> Target:
    store = bright_store(folder, counts=(3, 2), views=2)
    fill_store(store, allow_low_agreement=True)
    documents = sorted(store.path.rglob("zarr.json"))
    sound = {file: file.read_bytes() for file in documents}

    def resealed(file: Path, document: Any) -> Any:
        """As somebody would write it who means to deceive."""
        attributes = document["attributes"]
        if file == store.path / "zarr.json":
            settings = attributes["teacher_cache"]
            settings[SEAL] = seal(created_parts(settings, store.storage))
            settings["views_sha256"] = views_sha256(settings["views"])
        elif SEAL in attributes:
            attributes[SEAL] = seal({name: value for name, value in attributes.items() if name != SEAL})
        return document

    def target(draw: random.Random) -> None:
        file = draw.choice(documents)
        if draw.random() < 0.3:
            content = mutated(draw, sound[file])
        else:
            document = changed(draw, json.loads(sound[file]))
            with suppress(KeyError, TypeError, AttributeError, ValueError):  # what cannot be sealed is read unsealed
                document = resealed(file, document)
            content = json.dumps(document).encode()
        try:
            file.write_bytes(content)
            opened = Store.open(store.path, writable=True)
            assert opened.index.num_samples >= 0
            _ = opened.proofs.builds, opened.proofs.devices, opened.teacher
            for device in opened.proofs.devices:
                opened.proofs.read(device)
            for unit in opened.units()[:3]:
                opened.check_unit(unit)
        finally:
            for each, whole in sound.items():
                if each == file:
                    each.write_bytes(whole)

    return target


def checkpoint_target(folder: Path) -> Target:
    path, _, _ = checkpoint(folder, "model=student.convnet:small_convnet", "distill=none")
    whole = path.read_bytes()
    content = torch.load(path)
    plain = {name: value for name, value in content.items() if name not in ("model", "model_ema", "optimizer")}
    file = folder / "mutated.pt"

    def target(draw: random.Random) -> None:
        if draw.random() < 0.5:
            file.write_bytes(mutated(draw, whole))
        else:
            torch.save({**content, **changed(draw, plain)}, file)
        read_trained(str(file))

    return target


TARGETS: dict[str, Callable[[Path], Target]] = {
    "walk": walk_target,
    "decode": decode_target,
    "settings": settings_target,
    "store": store_target,
    "checkpoint": checkpoint_target,
}


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--inputs", default=1_000_000, type=click.IntRange(1), help="In all, shared among the targets.")
@click.option("--seed", default=0, type=click.IntRange(0))
@click.option("--only", type=click.Choice(list(TARGETS)), help="One target alone.")
@click.option("--out", default="runs/fuzz", type=click.Path(path_type=Path), help="Where what was found is kept.")
def main(inputs: int, seed: int, only: str | None, out: Path) -> None:
    """Feed damaged inputs, and say how many of each target were refused, taken, and found to break something."""
    torch.set_num_threads(1)
    broken = 0
    for name, make in TARGETS.items():
        if only in (None, name):
            broken += run(name, make, max(1, int(inputs * (1.0 if only else SHARES[name]))), seed, out)
    sys.exit(bool(broken))


def run(name: str, make: Callable[[Path], Target], inputs: int, seed: int, out: Path) -> int:
    """The number of inputs that broke something."""
    counts: Counter[str] = Counter()
    slowest, began = 0.0, time.perf_counter()
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        target = make(Path(folder))
        for number in range(inputs):
            start = time.perf_counter()
            try:
                target(random.Random(f"{name} {seed} {number}"))
                counts["taken"] += 1
            except TeacherCacheError as error:
                counts["refused" if str(error).isprintable() else "broken"] += 1
            except Exception as error:
                counts["broken"] += 1
                if counts[found := f"{type(error).__name__}: {str(error)[:80]}"] == 0 and counts["broken"] < 200:
                    out.mkdir(parents=True, exist_ok=True)
                    (out / f"{name}-{seed}-{number}.txt").write_text(traceback.format_exc())
                counts[found] += 1
            took = time.perf_counter() - start
            if took > SLOW_S:
                counts[f"slow: number {number}, {took:.1f} s"] += 1
            slowest = max(slowest, took)
    wall_s = time.perf_counter() - began
    print(f"{name}: {inputs:,} inputs in {wall_s:.0f} s, slowest {slowest:.2f} s: {dict(counts)}", flush=True)
    return counts["broken"]


if __name__ == "__main__":
    main()
