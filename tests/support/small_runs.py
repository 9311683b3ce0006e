"""Small training runs: a store that the brightness teacher filled, and the students of tests/support/students.py."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from student.evaluate import Accuracy
from student.options import TrainOptions
from student.recipe import Recipe, load_recipe
from student.train import train
from student.trained import TrainedModel, read_trained
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_image, bright_store
from tests.support.filling import fill_store
from tests.support.shard_files import write_shard

ROOT = Path(__file__).parents[2]
STUDENTS = str(ROOT / "tests" / "support" / "students.py")
SMALL = str(Path(__file__).with_name("small.toml"))
SPEED = ("images_per_s", "wait_share")  # columns of epochs.csv that differ from run to run


def filled_store(folder: Path, **options: Any) -> Store:
    """tests.support.bright_shards.bright_store, with every label of the brightness teacher."""
    store = bright_store(folder, **options)
    fill_store(store)
    return Store.open(store.path)


def validation_shard(path: Path, num_samples: int, class_names: list[str] | None = None) -> str:
    """Bright images that no training shard has; with class names, a classes.json beside them."""
    samples = [
        {"__key__": f"v{number:05d}", "png": bright_image(number), "cls": str(number % 10).encode()}
        for number in range(10_000, 10_000 + num_samples)
    ]
    write_shard(path, samples)
    if class_names is not None:
        path.with_name("classes.json").write_text(json.dumps(class_names))
    return str(path)


def student(name: str) -> str:
    """A setting that takes a student of tests/support/students.py."""
    return f"model={STUDENTS}:{name}"


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe(SMALL, [student("two_heads"), *overrides])


def train_small(store: Store, out: Path, *overrides: str, said: list[str] | None = None, **options: Any) -> Accuracy:
    """Train the small recipe in this process."""
    heard: list[str] = [] if said is None else said
    settings = TrainOptions(out, **{"workers": 0, "device": "cpu", **options})
    return train(store, small_recipe(*overrides), settings, heard.append)


def read_own(path: Path, *, ema: bool = False) -> TrainedModel:
    """A checkpoint of ours whose model may be code, which is consented to here."""
    return read_trained(str(path), model=torch.load(path)["recipe"]["model"], ema=ema)


def rows(path: Path, *, without: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """A CSV's rows, without some columns."""
    with path.open(newline="") as file:
        return [{name: row[name] for name in row if name not in without} for row in csv.DictReader(file)]


def column(path: Path, name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows(path)])
