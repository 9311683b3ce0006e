"""Accuracy by head against a plain loop, every sample once, and what a checkpoint brings with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from student.cli import main
from student.evaluate import (
    Normalise,
    Preprocessing,
    ValidationSet,
    evaluate,
    index_validation,
    open_checkpoint,
    preprocessing_of,
)
from student.model import build_model
from teacher_cache.errors import CheckpointError, ShardError
from teacher_cache.replay.render import decode
from teacher_cache.shards import class_rule, index_shards, read_block
from tests.bright_shards import bright_image
from tests.shard_files import write_shard
from tests.student.small_runs import filled_store, small_recipe, student, train_small, validation_shard
from tests.students import two_heads

NAMES = [str(number) for number in range(10)]
CPU = torch.device("cpu")
VIEWED = Preprocessing((12, 8), 1.0, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def validation_set(path: str, **options: Any) -> ValidationSet:
    return ValidationSet(index_shards([path], class_rule([path])), VIEWED, **{"workers": 0, **options})


def test_top1_and_top5_by_head_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = two_heads(10, (12, 8)).train()
    path = validation_shard(tmp_path / "val-0000.tar", 150)
    with validation_set(path) as validation:
        found = evaluate(model, validation, CPU, batch_size=100)
        assert evaluate(model, validation, CPU, batch_size=1) == found
    assert model.training
    index = index_shards([path], class_rule([path]))
    hits = {(head, top): 0 for head in ("class", "distillation", "fused") for top in ("top1", "top5")}
    model.eval()
    for number in range(index.num_blocks(0)):
        block = read_block(index.place(0, number))
        for image, truth in zip(block.images, block.classes.tolist(), strict=True):
            pixels = decode(image)[:, 1:9] / 255  # 12 x 10 pixels: nothing is resized, two columns are cut
            shown = (pixels - np.array(VIEWED.mean)) / np.array(VIEWED.std)
            with torch.no_grad():
                one, two = model(torch.from_numpy(shown.astype(np.float32)).permute(2, 0, 1)[None])
            scores = {"class": one[0], "distillation": two[0], "fused": one[0].softmax(0) + two[0].softmax(0)}
            for head, values in scores.items():
                ranking = values.argsort(descending=True).tolist()
                hits[head, "top1"] += ranking[0] == truth
                hits[head, "top5"] += truth in ranking[:5]
    assert found == {
        head: {top: hits[head, top] / 150 for top in ("top1", "top5")} for head in ("class", "distillation", "fused")
    }
    assert len({values["top5"] for values in found.values()}) > 1, "all heads are alike: the test shows little"


@pytest.mark.parametrize("num_samples", [40, 150])
def test_every_sample_is_seen_by_one_of_two_ranks(tmp_path: Path, num_samples: int) -> None:
    path = validation_shard(tmp_path / "val-0000.tar", num_samples)
    alone = list(validation_set(path).batches(100))
    parts = [list(validation_set(path, rank=rank, world_size=2).batches(100)) for rank in range(2)]
    assert bool(parts[1]) == (num_samples > 64)  # 40 samples are one block: the second rank has none
    images = sorted(view.numpy().tobytes() for batch in alone for view in batch.views)
    assert sorted(view.numpy().tobytes() for part in parts for batch in part for view in batch.views) == images
    assert len(set(images)) == num_samples == sum(len(batch.classes) for batch in alone)


def test_a_rank_without_samples_adds_up_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_heads(10, (12, 8))
    path = validation_shard(tmp_path / "val-0000.tar", 40)
    added: list[torch.Tensor] = []
    alone = evaluate(model, validation_set(path), CPU)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda counts: added.append(counts.clone()))
    for rank in range(2):
        evaluate(model, validation_set(path, rank=rank, world_size=2), CPU)
    assert added[0].shape == added[1].shape
    assert added[1].sum() == 0
    monkeypatch.setattr("torch.distributed.all_reduce", lambda counts: counts.add_(added[0]))
    assert evaluate(model, validation_set(path, rank=1, world_size=2), CPU) == alone


def test_normalise_is_the_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    shown = Normalise(VIEWED.mean, VIEWED.std, CPU)(torch.from_numpy(pixels)).numpy()
    expected = (pixels / 255 - np.array(VIEWED.mean)) / np.array(VIEWED.std)
    assert np.abs(shown - expected.transpose(0, 3, 1, 2)).max() < 1e-6


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """out/ of a finished run with an EMA, and val.tar, on which it was evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        val = validation_shard(folder / "val.tar", 100)
        train_small(filled_store(folder), folder / "out", "epochs=4", val=(val,))
    return folder


def test_a_checkpoint_alone_repeats_what_training_reported(trained: Path) -> None:
    reported = json.loads((trained / "out" / "results.json").read_text())["accuracy"]
    assert set(reported) == {f"{kind}{head}" for kind in ("", "ema_") for head in ("class", "distillation", "fused")}
    assert max(values["top5"] for values in reported.values()) > 0.6, "nothing was learned: the test shows little"
    for kind in ("", "ema_"):
        model, content = open_checkpoint(str(trained / "out" / "checkpoint.pt"), ema=bool(kind))
        index = index_validation([str(trained / "val.tar")], content["class_names"])
        with ValidationSet(index, preprocessing_of(content), workers=0) as validation:
            found = evaluate(model, validation, CPU)
        assert found == {head: reported[f"{kind}{head}"] for head in ("class", "distillation", "fused")}


def test_evaluate_command_prints_json_and_a_table(trained: Path) -> None:
    reported = json.loads((trained / "out" / "results.json").read_text())["accuracy"]
    command = ["evaluate", "--checkpoint", str(trained / "out" / "checkpoint.pt"), "--val", str(trained / "val.tar")]
    command += ["--workers", "0", "--device", "cpu"]
    plain = CliRunner().invoke(main, [*command, "--json"])
    assert plain.exit_code == 0, plain.output
    assert json.loads(plain.output)["samples"] == 100
    heads = ("class", "distillation", "fused")
    assert json.loads(plain.output)["accuracy"] == {head: reported[head] for head in heads}
    averaged = CliRunner().invoke(main, [*command, "--json", "--ema"])
    assert json.loads(averaged.output)["accuracy"] == {head: reported[f"ema_{head}"] for head in heads}
    table = CliRunner().invoke(main, command).output.splitlines()
    assert table[0].split() == ["validation", "top-1", "%", "top-5", "%"]
    assert table[1].split() == [
        *("small,", "class", "head"),
        f"{100 * reported['class']['top1']:.2f}",
        f"{100 * reported['class']['top5']:.2f}",
    ]
    assert [row.split(",")[1].split()[0] for row in table[1:]] == ["class", "distillation", "fused"]


def test_results_command_joins_runs(trained: Path) -> None:
    found = CliRunner().invoke(main, ["results", f"mine={trained / 'out'}", str(trained / "out")])
    assert found.exit_code == 0
    assert "mine, EMA, fused" in found.output
    assert "out, distillation head" in found.output
    unfinished = CliRunner().invoke(main, ["results", str(trained)])
    assert unfinished.exit_code == 1
    assert "has no results.json: its training is not finished" in unfinished.output


def test_a_checkpoint_that_is_none_of_ours(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of `student train`"):
        open_checkpoint(str(tmp_path / "other.pt"))
    with pytest.raises(CheckpointError, match=r"nothing\.pt is absent"):
        open_checkpoint(str(tmp_path / "nothing.pt"))
    (tmp_path / "torn.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"torn\.pt cannot be read"):
        open_checkpoint(str(tmp_path / "torn.pt"))


def test_ema_is_refused_where_there_is_none(tmp_path: Path) -> None:
    recipe = small_recipe(student("plain"))
    model = build_model(recipe, 10, (8, 8))
    content = {"recipe": recipe.to_json(), "model": model.state_dict(), "class_names": NAMES, "size": [8, 8]}
    torch.save(content, tmp_path / "checkpoint.pt")
    opened, _ = open_checkpoint(str(tmp_path / "checkpoint.pt"))
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="has no EMA weights: leave out --ema"):
        open_checkpoint(str(tmp_path / "checkpoint.pt"), ema=True)


# -- classes -------------------------------------------------------------------------------------------------------


def test_other_class_names_are_refused(tmp_path: Path) -> None:
    animals = ["cat", "dog", "emu", *"defghij"]
    path = validation_shard(tmp_path / "val.tar", 20, animals)
    assert index_validation([path], animals).num_samples == 20
    with pytest.raises(ShardError, match=r"class 2 is emu there and gnu here.*classes\.json beside them"):
        index_validation([path], ["cat", "dog", "gnu", *"defghij"])
    with pytest.raises(ShardError, match="10 classes there and 11 here"):
        index_validation([path], [*animals, "k"])
    with pytest.raises(ShardError, match="class 0 is cat there and 0 here"):
        index_validation([path], NAMES)


def test_numbered_classes_may_lack_the_highest_but_not_exceed_it(tmp_path: Path) -> None:
    path = validation_shard(tmp_path / "val.tar", 8)  # classes 0 to 7
    assert index_validation([path], NAMES).num_samples == 8
    with pytest.raises(ShardError, match="8 classes there and 7 here"):
        index_validation([path], NAMES[:7])


def test_validation_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="hold no samples"):
        index_validation([validation_shard(tmp_path / "val.tar", 0, NAMES)], NAMES)


def test_classes_come_from_where_the_training_shards_have_them(tmp_path: Path) -> None:
    samples = [
        {"__key__": f"v{n}", "png": bright_image(n), "json": json.dumps({"label": n}).encode()} for n in range(10)
    ]
    path = str(write_shard(tmp_path / "val.tar", samples))
    assert index_validation([path], NAMES, "json:label").classes.tolist() == list(range(10))
    with pytest.raises(ShardError, match=r"no \.json|has no class"):
        index_validation([path], NAMES)
