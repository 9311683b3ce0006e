"""What a model answers, against plain loops: by head, fused, mirrored, beside a teacher, over ranks; the command."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from student.cli import main
from student.evaluate import ANSWERS, Tally, evaluate, evaluate_all, tally
from student.model import Fusion
from student.trained import build_trained, read_trained
from student.validation import Preprocessing, ValidationSet, index_validation
from teacher_cache.errors import TeacherError, TrainingError
from teacher_cache.replay.render import decode
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import read_block
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.teacher import Teacher, open_teacher
from tests.support.bright_shards import bright_image
from tests.support.filled_store import make_store
from tests.support.forked import Forks
from tests.support.shard_files import write_shard
from tests.support.small_runs import STUDENTS, filled_store, read_own, train_small, validation_shard
from tests.support.students import one_head, two_heads
from tests.support.trained_files import DEIT, DEIT_SETTINGS, checkpoint, filled, pth

CPU = torch.device("cpu")
VIEWED = Preprocessing((12, 8), 1.0, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
CONVNET = "tests/support/teachers.py:convnet"
HEADS = ("class", "distillation", "fused")


def validation_set(path: str, **options: Any) -> ValidationSet:
    return ValidationSet(index_shards([path], class_rule([path])), VIEWED, **{"workers": 0, **options})


def varied(model: nn.Module) -> nn.Module:
    """With larger heads: else most samples get the same answer."""
    with torch.no_grad():
        for head in model.get_submodule("heads").children():
            head.weight.mul_(4)
    return model


def open_convnet() -> Teacher:
    settings = TeacherSettings(CONVNET, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1), device="cpu", batch_size=48)
    return open_teacher(settings, num_classes=10, view_size=VIEWED.size, stored=None)


@torch.no_grad()
def plain_loop(
    model: nn.Module,
    path: str,
    *,
    flip: bool = False,
    mean: Sequence[float] = VIEWED.mean,
    std: Sequence[float] = VIEWED.std,
) -> tuple[Tensor, ...]:
    """One sample at a time: truths (N,), and of each head its logits (N, 10)."""
    model.eval()
    truths, logits = [], []
    index = index_shards([path], class_rule([path]))
    for number in range(index.num_blocks(0)):
        block = read_block(index.place(0, number))
        for image, truth in zip(block.images, block.classes.tolist(), strict=True):
            pixels = decode(image)[:, 1:9] / 255  # 12 x 10 pixels: nothing is resized, two columns are cut
            shown = torch.from_numpy(((pixels - np.array(mean)) / np.array(std)).astype(np.float32)).permute(2, 0, 1)
            said = [model(view[None]) for view in (shown, shown.flip(2))[: 2 if flip else 1]]
            by_head = zip(*(one if isinstance(one, tuple) else (one,) for one in said), strict=True)
            logits.append(torch.stack([sum(head)[0] / len(said) for head in by_head]))
            truths.append(truth)
    return torch.tensor(truths), *torch.stack(logits, dim=1)


def scores(one: Tensor, two: Tensor) -> dict[str, Tensor]:
    softmaxes = one.softmax(1) + two.softmax(1)
    return {"class": one, "distillation": two, "fused_softmax_sum": softmaxes, "fused_logit_mean": (one + two) / 2}


def assert_counts(counts: Tally, truths: Tensor, answers: dict[str, Tensor]) -> None:
    """Counts are those of the answers' scores (N, C)."""
    assert set(counts.answers) == {"truth", *answers}
    first = {"truth": truths} | {name: values.argmax(1) for name, values in answers.items()}
    for name, values in answers.items():
        number = ANSWERS.index(name)
        ranking = values.argsort(dim=1, descending=True).tolist()
        assert counts.given[number] == len(truths)
        assert counts.top1[number] == sum(ranks[0] == truth for ranks, truth in zip(ranking, truths, strict=True))
        assert counts.top5[number] == sum(
            truth in ranks[:5] for ranks, truth in zip(ranking, truths.tolist(), strict=True)
        )
    for one, ones in first.items():
        for two, twos in first.items():
            differing = sum(a != b for a, b in zip(ones.tolist(), twos.tolist(), strict=True))
            assert counts.differing[ANSWERS.index(one), ANSWERS.index(two)] == differing, (one, two)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    return validation_shard(tmp_path_factory.mktemp("shard") / "val-0000.tar", 150)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return varied(two_heads(10, (12, 8))).train()


def test_answers_are_those_of_a_plain_loop(shard: str, model: nn.Module) -> None:
    with validation_set(shard) as validation:
        counts = tally(model, validation, CPU, batch_size=100)
        assert model.training
        again = tally(model, validation, CPU, batch_size=1)
    truths, one, two = plain_loop(model, shard)
    assert_counts(counts, truths, scores(one, two))
    assert_counts(again, truths, scores(one, two))
    off = counts.differing[[0, 2, 3, 4, 5]][:, [0, 2, 3, 4, 5]] + torch.eye(5)
    assert off.min() > 0, "two answer alike on every sample: the test shows little"
    assert counts.token_cosine == ()
    assert counts.real_samples == 0


@pytest.mark.parametrize("fusion", ["softmax_sum", "logit_mean"])
def test_training_asks_for_one_fusion(shard: str, model: nn.Module, fusion: Fusion) -> None:
    with validation_set(shard) as validation:
        found = evaluate(model, validation, CPU, batch_size=100, fusion=fusion)
    assert model.training
    truths, one, two = plain_loop(model, shard)
    for head, name in zip(HEADS, ("class", "distillation", f"fused_{fusion}"), strict=True):
        values = scores(one, two)[name]
        top5 = (values.topk(5).indices == truths[:, None]).any(1)
        top1 = values.argmax(1) == truths
        assert found[head] == {"top1": top1.sum().item() / 150, "top5": top5.sum().item() / 150}
    assert list(found) == list(HEADS)


def test_a_model_of_one_head(shard: str) -> None:
    torch.manual_seed(1)
    model = varied(one_head(10, (12, 8)))
    with validation_set(shard) as validation:
        assert list(evaluate(model, validation, CPU)) == ["class"]
        counts = tally(model, validation, CPU, tta="flip")
    truths, logits = plain_loop(model, shard, flip=True)
    assert_counts(counts, truths, {"class": logits})


def test_several_models_see_views_that_are_rendered_once(
    shard: str, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writing(nn.Sequential):
        """A model that writes to the images it is given."""

        def forward(self, images: Tensor) -> Any:
            return super().forward(images.neg_())

    asked: list[int] = []
    batches = ValidationSet.batches
    monkeypatch.setattr(ValidationSet, "batches", lambda *given: asked.append(1) or batches(*given))
    models = [Writing(one_head(10, (12, 8))).train(), varied(one_head(10, (12, 8))).eval(), model]
    with validation_set(shard) as validation:
        together = evaluate_all(models, validation, CPU)
        assert [each.training for each in models] == [True, False, True]
        assert len(asked) == 1
        assert together == [evaluate(each, validation, CPU) for each in models]


def test_mirrored_views_give_the_mean_of_both_logits(shard: str, model: nn.Module) -> None:
    with validation_set(shard) as validation:
        counts = tally(model, validation, CPU, tta="flip")
        without = tally(model, validation, CPU)
    truths, one, two = plain_loop(model, shard, flip=True)
    assert_counts(counts, truths, scores(one, two))
    assert not torch.equal(counts.differing, without.differing), "mirroring changes nothing: the test shows little"


def test_a_teacher_sees_the_same_views_with_its_own_mean_and_std(shard: str, model: nn.Module) -> None:
    with validation_set(shard) as validation:
        counts = tally(model, validation, CPU, tta="flip", teacher=open_convnet())
    truths, one, two = plain_loop(model, shard, flip=True)
    teacher = open_convnet()
    _, said = plain_loop(teacher.model, shard, mean=teacher.identity.mean, std=teacher.identity.std)
    assert_counts(counts, truths, {**scores(one, two), "teacher": said})
    assert len(said.argmax(1).unique()) > 1, "the teacher always says the same: the test shows little"


def test_true_classes_of_images_that_have_any(shard: str, model: nn.Module) -> None:
    _, one, two = plain_loop(model, shard)
    real = torch.rand((150, 10), generator=torch.Generator().manual_seed(0)) < 0.2
    assert 0 < (~real.any(1)).sum() < 60
    with validation_set(shard) as validation:
        counts = tally(model, validation, CPU, batch_size=100, real=real)
    assert counts.real_samples == real.any(1).sum()
    for name, values in scores(one, two).items():
        right = sum(bool(row[answer]) for row, answer in zip(real, values.argmax(1).tolist(), strict=True))
        assert counts.real_top1[ANSWERS.index(name)] == right


# -- what is no number ---------------------------------------------------------------------------------------------


class Sickly(nn.Module):
    """Answers no numbers to some samples, by their brightness; of one head, or of the second."""

    def __init__(self, second: bool, worst: float) -> None:
        super().__init__()
        self.second, self.worst = second, worst

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        brightness = images.mean((1, 2, 3))
        ill = torch.where(brightness > self.worst, torch.nan, brightness)[:, None].expand(-1, 10)
        return (brightness[:, None].expand(-1, 10), ill) if self.second else ill


@pytest.mark.parametrize("second", [False, True])
def test_logits_that_are_not_finite_name_the_first_sample(shard: str, second: bool) -> None:
    with validation_set(shard) as validation:
        normal = torch.tensor(VIEWED.mean), torch.tensor(VIEWED.std)
        batches = list(validation.batches(256))
        shown = torch.cat([batch.views for batch in batches]) / 255
        brightness = ((shown - normal[0]) / normal[1]).mean((1, 2, 3))
        samples = torch.cat([batch.samples for batch in batches])
        worst = float(brightness.sort().values[-20:-18].mean())
        first = int(samples[brightness > worst][0])
        assert first > 0
        head = "distillation" if second else "class"
        key = f"v{10_000 + first}"
        message = (
            rf"shard val-0000\.tar, key {key}: the {head} head's logits are not finite, so the weights are of no use"
        )
        for flip in (None, "flip"):
            with pytest.raises(TrainingError, match=message):
                tally(Sickly(second, worst), validation, CPU, tta=flip)
        with pytest.raises(TrainingError, match=message):
            evaluate(Sickly(second, worst), validation, CPU)


def test_a_teacher_that_answers_no_numbers_names_the_first_sample(shard: str, model: nn.Module) -> None:
    teacher = open_convnet()
    teacher.model = Sickly(False, 1.0)
    with (
        validation_set(shard) as validation,
        pytest.raises(
            TeacherError, match=r"shard val-0000\.tar, key v10\d+: teacher .*convnet gives logits that are not"
        ),
    ):
        tally(model, validation, CPU, teacher=teacher)


@pytest.mark.parametrize("factor", [1e30, float("nan")])
def test_ruined_weights_are_refused_by_command(tmp_path: Path, shard: str, factor: float) -> None:
    path, model, _ = checkpoint(tmp_path, *DEIT_SETTINGS, names="0123456789", class_from="cls")
    ruined = dict(model.state_dict())
    for name in ("norm.weight", "head.weight"):  # by 1e30 each is finite, their product is not
        ruined[name] = ruined[name] * factor
    torch.save(torch.load(path) | {"model": ruined}, path)
    done = CliRunner().invoke(main, ["evaluate", "--workers", "0", "--device", "cpu", str(path), "--val", shard])
    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    if factor == 1e30:
        assert line.startswith("error: shard val-0000.tar, key v10000: the class head's logits are not finite, so the ")
    else:
        assert line.startswith(f"error: checkpoint {path} holds numbers that are not finite, first in norm.weight: ")


# -- ranks ---------------------------------------------------------------------------------------------------------


def test_ranks_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, of which the second has no samples; and a model with both tokens."""
    path, model, _ = checkpoint(tmp_path, *DEIT_SETTINGS, names="0123456789", class_from="cls")
    seen = read_trained(str(path)).preprocessing
    for num_samples, second in ((40, 0), (150, 64)):
        shard = validation_shard(tmp_path / f"val-{num_samples}.tar", num_samples)
        index = index_shards([shard], class_rule([shard]))

        def ranked(rank: int = 0, world_size: int = 1, index: Any = index) -> Tally:
            with ValidationSet(index, seen, workers=0, rank=rank, world_size=world_size) as validation:
                return tally(model, validation, CPU, batch_size=64)

        alone = ranked()
        added: list[Tensor] = []
        with monkeypatch.context() as patch:
            patch.setattr("torch.distributed.is_initialized", lambda: True)
            patch.setattr("torch.distributed.all_reduce", lambda sums, into=added: into.append(sums.clone()))
            parts = [ranked(rank, 2) for rank in range(2)]
            assert parts[1].given[0] == second
            patch.setattr("torch.distributed.all_reduce", lambda sums, others=added: sums.add_(others[0]))
            together = ranked(1, 2)
        assert added[0].shape == added[1].shape
        for field in ("given", "top1", "top5", "differing"):
            assert torch.equal(getattr(together, field), getattr(alone, field))
        assert together.token_cosine == pytest.approx(alone.token_cosine)
        assert len(alone.token_cosine) == 2


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """out/ of a finished run with an EMA, and val.tar, on which it was evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    val = validation_shard(folder / "val.tar", 100)
    train_small(filled_store(folder), folder / "out", "epochs=4", val=(val,))
    return folder


def test_a_checkpoint_alone_repeats_what_training_reported(trained: Path) -> None:
    reported = json.loads((trained / "out" / "results.json").read_text())["accuracy"]
    assert set(reported) == {f"{kind}{head}" for kind in ("", "ema_") for head in ("class", "distillation", "fused")}
    assert max(values["top5"] for values in reported.values()) > 0.6, "nothing was learned: the test shows little"
    for kind in ("", "ema_"):
        read = read_own(trained / "out" / "checkpoint.pt", ema=bool(kind))
        index = index_validation([str(trained / "val.tar")], read.class_names)
        with ValidationSet(index, read.preprocessing, workers=0) as validation:
            found = evaluate(build_trained(read), validation, CPU)
        assert found == {head: reported[f"{kind}{head}"] for head in ("class", "distillation", "fused")}


def test_ranks_that_are_asked_for_different_things_say_so(tmp_path: Path, trained: Path, forks: Forks) -> None:
    """Their counts are added up, whatever each has counted."""
    model, other = str(trained / "out" / "checkpoint.pt"), validation_shard(tmp_path / "other.tar", 40)
    command = ["evaluate", model, "--model", f"{STUDENTS}:two_heads", "--workers", "0", "--device", "cpu", "--val"]
    ranks = forks.start_ranks("student", [*command, str(trained / "val.tar")], 2, [*command, other])
    assert [rank.wait() for rank in ranks] == [1, 1], ranks[0].output
    for rank in ranks:
        assert rank.output.startswith("error: rank 1 has validation shards = [('other.tar', ")


def evaluate_command(*options: str) -> str:
    done = CliRunner().invoke(main, ["evaluate", "--workers", "0", "--device", "cpu", *options])
    assert done.exit_code == 0, done.output
    return done.output


def test_evaluate_command_prints_what_training_reported(trained: Path, tmp_path: Path) -> None:
    reported = json.loads((trained / "out" / "results.json").read_text())["accuracy"]
    given = [str(trained / "out" / "checkpoint.pt"), "--val", str(trained / "val.tar")]
    given += ["--model", f"{STUDENTS}:two_heads"]
    for kind, options in (("", []), ("ema_", ["--ema"])):
        values = json.loads(evaluate_command(*given, "--json", *options))
        assert (values["samples"], values["name"], values["ema"]) == (100, "small", bool(kind))
        names = {"class": "class", "distillation": "distillation", "fused_softmax_sum": "fused"}
        for name, head in names.items():
            for top in ("top1", "top5"):
                assert values["accuracy"][name][top] == reported[f"{kind}{head}"][top]
    exported = str(tmp_path / "average.safetensors")
    command = ["export", given[0], *given[3:], "--ema", "--format", "safetensors", "--out", exported]
    assert CliRunner().invoke(main, command).exit_code == 0
    table = evaluate_command(exported, *given[1:]).splitlines()  # --ema or not: the file has no others
    assert table[0] == "small, EMA: 100 samples, 8 x 8, crop 1 bicubic"
    table = evaluate_command(*given).splitlines()
    assert table[0] == "small: 100 samples, 8 x 8, crop 1 bicubic"
    assert table[3].split()[:3] == ["class", "head", f"{100 * reported['class']['top1']:.2f}"]


def test_results_command_joins_runs(trained: Path) -> None:
    found = CliRunner().invoke(main, ["results", f"mine={trained / 'out'}", str(trained / "out")])
    assert found.exit_code == 0
    assert "mine, EMA, fused" in found.output
    assert "out, distillation head" in found.output


def test_results_of_what_is_no_run_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "steps.csv").write_text("step\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "plain").mkdir()
    make_store(tmp_path / "store")
    said = {
        "begun": "has no results.json: its training is not finished; run its command again",
        "file": "is no run, it is a file: name the --out of a training",
        "plain": f"is no run, it is an empty folder; there is a store at {tmp_path}/store: name",
        "store": "is no run, it is a store of labels: name",
        "store/labels": f"is no run, it is a part of the store {tmp_path}/store",
        "bergun": f"is no run, there is no such file or folder ({tmp_path} has begun): name",
    }
    told = CliRunner().invoke(main, ["results", *(f"{tmp_path}/{name}" for name in said)])
    assert told.exit_code == 1
    for line, (name, end) in zip(told.output.splitlines(), said.items(), strict=True):
        assert line.startswith(f"error: {tmp_path}/{name} {end}"), line


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint.pt of a DeiT with random weights and val.tar, of ten classes."""
    folder = tmp_path_factory.mktemp("deit")
    checkpoint(folder, *DEIT_SETTINGS, "fusion=logit_mean", names="0123456789", class_from="cls")
    validation_shard(folder / "val.tar", 100)
    return folder


def test_everything_at_once(deit: Path) -> None:
    given = [str(deit / "checkpoint.pt"), "--val", str(deit / "val.tar")]
    given += ["--crop-pct", "0.5", "--tta", "flip", "--teacher", CONVNET]
    values = json.loads(evaluate_command(*given, "--json"))
    heads = ["class", "distillation", "fused_softmax_sum", "fused_logit_mean"]
    assert sorted(values["accuracy"]) == sorted(["teacher", *heads])
    assert (values["crop_pct"], values["tta"], values["teacher"]) == (0.5, "flip", "teachers.py:convnet")
    assert (values["size"], values["interpolation"], values["fusion"]) == ([16, 24], "bilinear", "logit_mean")
    assert set(values["disagreement"]) == {"truth", "teacher", *heads}
    assert values["disagreement"]["truth"]["class"] == pytest.approx(1 - values["accuracy"]["class"]["top1"])
    assert len(values["token_cosine"]) == 2
    table = evaluate_command(*given)
    assert "fused, mean of logits *" in table
    assert "teacher: teachers.py:convnet" in table
    assert max(len(line) for line in table.splitlines()) <= 100
    assert table.splitlines()[-1].startswith("cosine of class and distillation token after each block: ")


def test_real_by_command(tmp_path: Path) -> None:
    path, model, _ = checkpoint(tmp_path, *DEIT_SETTINGS, names=[str(n) for n in range(1000)], class_from="cls")
    with torch.no_grad():  # always class 3: what is right is then known
        for head in (model.head, model.head_dist):
            head.bias[3] = 1e3
    torch.save(torch.load(path) | {"model": model.state_dict()}, path)
    samples = [
        {"__key__": f"ILSVRC2012_val_{n + 1:08d}", "png": bright_image(n), "cls": str(n % 10).encode()}
        for n in range(20)
    ]
    shard = write_shard(tmp_path / "val.tar", samples)
    entries = [[] if n % 4 == 0 else [n, 3] if n < 6 else [n % 10] for n in range(30)]  # of 20, 5 have no true class
    (tmp_path / "real.json").write_text(json.dumps(entries))
    given = [str(path), "--val", str(shard), "--real", str(tmp_path / "real.json")]
    values = json.loads(evaluate_command(*given, "--json"))
    assert values["accuracy"]["class"]["top1"] == 2 / 20
    assert values["real"]["samples"] == 15
    assert values["real"]["fused_logit_mean"]["top1"] == (4 + 1) / 15  # 1, 2, 3, 5, and 13
    assert "ReaL %, 15" in evaluate_command(*given)
    unnumbered = validation_shard(tmp_path / "other.tar", 3)
    refused = CliRunner().invoke(main, ["evaluate", *given[:1], "--val", unnumbered, *given[3:], "--device", "cpu"])
    assert refused.exit_code == 1
    assert "shard other.tar, key 'v10000' has no ILSVRC2012_val_ number" in refused.output


def test_a_released_file_takes_its_class_names_from_the_shards(deit: Path, tmp_path: Path) -> None:
    for num_classes in (10, 9):
        model = filled(timm.create_model(DEIT, img_size=32, num_classes=num_classes))
        given = [str(pth("model")(model.state_dict(), tmp_path)), "--val", str(deit / "val.tar")]
        if num_classes == 10:
            values = json.loads(evaluate_command(*given, "--model", DEIT, "--json"))
            assert (values["name"], values["size"], values["crop_pct"]) == (DEIT, [32, 32], 0.875)
            assert (values["fusion"], values["samples"], len(values["token_cosine"])) == (None, 100, 12)
        else:
            refused = CliRunner().invoke(main, ["evaluate", *given, "--model", DEIT, "--device", "cpu"])
            assert refused.exit_code == 1
            assert "have 10 classes, the model has 9" in refused.output


@pytest.mark.parametrize("named", [False, True])
def test_1001_classes_are_told_from_1000(tmp_path: Path, named: bool) -> None:
    """Without names shards of numbers 0 to 999 would else pass, each a class too low."""
    samples = [{"__key__": f"v{n:04d}", "png": bright_image(n), "cls": str(n).encode()} for n in (0, 7, 999)]
    shard = write_shard(tmp_path / "val.tar", samples)
    if named:
        (tmp_path / "classes.json").write_text(json.dumps([f"n{n:08d}" for n in range(1000)]))
    for number, refused in ((1001, True), (1002, named)):
        model = filled(timm.create_model("resnet10t", num_classes=number))
        given = [str(pth("model")(model.state_dict(), tmp_path)), "--val", str(shard)]
        done = CliRunner().invoke(
            main, ["evaluate", "--workers", "0", "--device", "cpu", "--model", "resnet10t", *given]
        )
        assert done.exit_code == refused, done.output
        assert (f"val.tar have 1,000 classes, the model has {number:,}: " in done.output) == refused
        assert ("; 1,001 are probably ImageNet's 1,000 behind a background class" in done.output) == (number == 1001)


def test_an_older_recipe_is_told(deit: Path, tmp_path: Path) -> None:
    content = torch.load(deit / "checkpoint.pt")
    del content["recipe"]["fusion"]
    torch.save(content, tmp_path / "old.pt")
    given = [str(tmp_path / "old.pt"), "--val", str(deit / "val.tar"), "--workers", "0", "--json"]
    done = CliRunner().invoke(main, ["evaluate", *given, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["fusion"] == "softmax_sum"
    assert done.stderr == (
        f"{tmp_path}/old.pt: its recipe lacks settings of today, which are taken at their defaults: "
        "fusion = softmax_sum\n"
    )


def test_a_teachers_weights_without_a_teacher(deit: Path) -> None:
    given = [str(deit / "checkpoint.pt"), "--val", str(deit / "val.tar")]
    refused = CliRunner().invoke(main, ["evaluate", *given, "--checkpoint", "weights.pt"])
    assert refused.exit_code == 2
    assert (
        "--checkpoint weights.pt is a teacher's weights: name it with --teacher (the trained model is MODEL)"
        in refused.output
    )
