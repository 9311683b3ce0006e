"""A folder that timm loads to the same bits, with the same preprocessing, from here and from the Hub."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from click.testing import CliRunner
from timm.data import create_transform, resolve_model_data_config
from torchvision import transforms

from student.cli import main
from student.hub import export_hub, push
from student.trained import build_trained, read_trained
from teacher_cache.errors import CheckpointError, StorageError
from teacher_cache.teacher.weights import state_sha256
from tests.student.test_export import DISTILLED, SINGLE, images, read
from tests.support.model_hub import TOKEN, ModelHub, require_timeouts, use_hub
from tests.support.small_runs import filled_store, student, train_small, validation_shard
from tests.support.trained_files import NAMES

STORE = {"seed": 7, "index": "1a2b", "policy": '{"name": "deit | `x`"}'}


# the client's own, of its HTTP library, when it uploads
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """The Hub that the client knows, to which the tests have logged in."""
    with ModelHub() as started:
        use_hub(monkeypatch, started.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield started


def export(folder: Path, *words: str) -> tuple[int, str]:
    command = ["export", str(folder / "checkpoint.pt"), "--format", "hf", "--out", str(folder / "out"), *words]
    done = CliRunner().invoke(main, command)
    return done.exit_code, done.output


@torch.no_grad()
@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("settings", [DISTILLED, SINGLE])
def test_timm_loads_the_same_bits_and_the_same_preprocessing(
    tmp_path: Path, settings: tuple[str, ...], ema: bool
) -> None:
    _, model = read(tmp_path, *settings, "drop_path=0.1", ema=ema)
    code, said = export(tmp_path, *(["--ema"] if ema else []))
    out = tmp_path / "out"
    loads = f"timm.create_model('local-dir:{out}', pretrained=True)"
    assert (code, said.splitlines()) == (
        0,
        [f"wrote {out}; read back by timm.create_model, largest difference 0", loads],
    )
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # who may read one may read all
    theirs = eval(loads, {"timm": timm}).eval()
    assert torch.equal(theirs(images(3)), model(images(3)))
    assert theirs(images(3)).std() > 1e-3
    assert theirs.pretrained_cfg["label_names"] == NAMES
    for name in ("tag", "license", "url", "hf_hub_id", "origin_url", "paper_ids"):
        assert not json.loads((out / "config.json").read_text())["pretrained_cfg"].get(name), name
    again = read_trained(str(out / "model.safetensors"))
    assert again.class_names == tuple(NAMES)
    assert torch.equal(build_trained(again)(images(3)), model(images(3)))
    by_name = read_trained(f"local-dir:{out}")
    assert replace(by_name, source="", state={}) == replace(again, source="", state={})
    assert by_name.weights == ("ema" if ema else "raw")
    if ema:
        assert read_trained(f"local-dir:{out}", ema=True).weights == "ema"
    else:
        with pytest.raises(CheckpointError, match="holds the weights without averaging: leave out --ema"):
            read_trained(f"local-dir:{out}", ema=True)
    resize, crop, *_, normalise = create_transform(**resolve_model_data_config(theirs), is_training=False).transforms
    seen = read_trained(str(tmp_path / "checkpoint.pt")).preprocessing
    assert isinstance(crop, transforms.CenterCrop)
    assert tuple(crop.size) == seen.size == (16, 24)
    assert resize.interpolation == transforms.InterpolationMode(seen.interpolation)
    assert tuple(resize.size) == tuple(int(side / seen.crop_pct) for side in seen.size)
    assert torch.equal(normalise.mean, torch.tensor(seen.mean))
    assert torch.equal(normalise.std, torch.tensor(seen.std))


def test_the_card_says_what_it_is_and_how_it_was_trained(tmp_path: Path) -> None:
    trained, _ = read(tmp_path, *DISTILLED, ema=True)
    content = torch.load(tmp_path / "checkpoint.pt") | {"store": STORE, "weights": {"teacher": "77", "initial": "88"}}
    torch.save(content, tmp_path / "checkpoint.pt")
    assert trained.recipe is not None
    heads = {"class": 0.5, "distillation": 0.625, "fused": 0.75, "ema_class": 0.25, "ema_fused": 0.375}
    results = {
        "recipe": trained.recipe.to_json(),
        "store": STORE,
        "weights": content["weights"],
        "teacher": "regnety_160",
        "model": {"raw": state_sha256(content["model"]), "ema": state_sha256(content["model_ema"])},
    }
    results["accuracy"] = {head: {"top1": top1, "top5": 1.0} for head, top1 in heads.items()}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert export(tmp_path, "--licence", "cc-by-4.0")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    front = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md").data
    assert (front.license, front.library_name, front.pipeline_tag) == ("cc-by-4.0", "timm", "image-classification")
    for told in (
        "timm.create_model('local-dir:out', pretrained=True)",
        "the mean of both heads' logits (fusion `logit_mean`)",
        "| class head | 50.00 | 100.00 |",
        "| fused | 75.00 | 100.00 |",
        "Both heads are fused by `softmax_sum`.",
        "| teacher | `regnety_160` |",
        "| SHA-256 of the teacher's weights | `77` |",
        "| SHA-256 of the weights that it began with | `88` |",
        "| store's seed | `7` |",
        """| store's policy | `{"name": "deit / 'x'"}` |""",
        f'"lr": {trained.recipe.lr}',
    ):
        assert told in card, told
    assert "25.00" not in card, "of other weights"
    assert str(tmp_path) not in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"]["license"] == "cc-by-4.0"
    export_hub(read_trained(str(tmp_path / "out" / "model.safetensors")), tmp_path / "again")
    again = (tmp_path / "again" / "README.md").read_text()
    trainings = [text.partition("## Training")[2] for text in (card, again)]
    assert trainings[0].replace("| teacher | `regnety_160` |\n", "") == trainings[1], "results alone name the teacher"
    results["store"] = STORE | {"seed": 8}  # another training's
    (tmp_path / "results.json").write_text(json.dumps(results))
    export_hub(read_trained(str(tmp_path / "checkpoint.pt")), tmp_path / "other")
    card = (tmp_path / "other" / "README.md").read_text()
    assert "## Results" not in card
    assert "regnety_160" not in card
    assert "license" not in card
    assert "No licence is stated" in card


def test_a_trainings_own_results_are_in_its_card(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "filled", counts=(70,))
    val = validation_shard(tmp_path / "val.tar", 20)
    settings = ("epochs=1", *DISTILLED, "batch_size=32")
    accuracy = train_small(store, tmp_path, *settings, val=(val,))
    assert export(tmp_path)[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    for head in ("class head", "distillation head", "fused"):
        assert f"| {head} | {100 * accuracy[head.partition(' ')[0]]['top1']:.2f} |" in card
    assert f"| store's seed | `{store.seed}` |" in card


def test_a_card_has_the_accuracy_of_its_own_weights_alone(tmp_path: Path) -> None:
    """However they came here: a checkpoint's, its average, an earlier epoch's, those of a file that was exported."""
    store = filled_store(tmp_path / "filled", counts=(70,))
    val = validation_shard(tmp_path / "val.tar", 40)
    train_small(store, tmp_path, "epochs=2", *DISTILLED, "batch_size=32", "lr=2e-3", val=(val,))
    results = json.loads((tmp_path / "results.json").read_text())
    shares = {weights: 0.25 + number / 8 for number, weights in enumerate(("", "ema_"))}
    results["accuracy"] = {f"{weights}fused": {"top1": share, "top5": 1.0} for weights, share in shares.items()}
    (tmp_path / "results.json").write_text(json.dumps(results))

    def card(source: str, *words: str) -> str:
        out = tmp_path / "-".join(("out", source, *words))
        command = ["export", str(tmp_path / source), *words, "--format", "hf", "--out", str(out)]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        return (out / "README.md").read_text()

    for name, words in (("raw", []), ("average", ["--ema"])):
        command = ["export", str(tmp_path / "checkpoint.pt"), *words, "--format", "safetensors"]
        assert CliRunner().invoke(main, [*command, "--out", str(tmp_path / f"{name}.safetensors")]).exit_code == 0
    for told in (card("checkpoint.pt"), card("raw.safetensors")):
        assert "| fused | 25.00 | 100.00 |" in told
        assert "| weights | those of the last step |" in told
        assert "37.50" not in told
    for told in (card("checkpoint.pt", "--ema"), card("average.safetensors"), card("average.safetensors", "--ema")):
        assert "| EMA, fused | 37.50 | 100.00 |" in told
        assert "| weights | their moving average |" in told
        assert "25.00" not in told
    for words in ([], ["--ema"]):
        told = card("epoch.pt", *words)
        assert "## Results" not in told
        assert '"lr": 0.002' in told


@pytest.mark.parametrize("model", [student("two_heads"), "model=student.convnet:small_convnet"])
def test_a_model_that_timm_has_not_is_refused_in_a_line(tmp_path: Path, model: str) -> None:
    read(tmp_path, model, "distill=none")
    name = model.removeprefix("model=")
    code, said = export(tmp_path, "--model", name)
    assert (code, said) == (
        1,
        f"error: {tmp_path}/checkpoint.pt: its model, {name}, is none of timm's, so timm.create_model cannot build it "
        "from a folder: write --format safetensors\n",
    )
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(tmp_path, *SINGLE)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    code, said = export(tmp_path, "--push", "some/one/else", "--licence", "my own\nlicence: x")
    assert code == 1
    told = said.splitlines()
    assert told[0].startswith(r"error: --licence my own\nlicence: x is no licence's id: give one as the Hub has it")
    assert told[1].startswith("error: --push some/one/else: Repo id must be in the form")
    assert told[2] == "error: --push needs a login at the Hub: `hf auth login`, or set HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for repo, fault in (("", ""), ("model", "error: --push model names no owner: give OWNER/NAME\n")):
        code, said = export(tmp_path, "--push", repo)
        assert (code, said.count("\n")) == (1, 1)
        assert said == (fault or said)
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    code, said = export(tmp_path)
    assert said == f"error: {tmp_path}/out is there already: --format hf makes a folder, choose another --out\n"
    for words in (["--force"], ["--private"], ["--outputs", "heads"], ["--fusion", "logit_mean"]):
        assert export(tmp_path, *words)[0] == 2
    command = ["export", "x.pt", "--format", "onnx", "--out", "x.onnx", "--push", "some/one"]
    assert CliRunner().invoke(main, command).exit_code == 2


def test_a_folder_that_differs_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, _ = read(tmp_path, *SINGLE)
    create = timm.create_model

    def wrong(name: str, **options: Any) -> Any:
        model = create(name, **options)
        if options.get("pretrained"):
            with torch.no_grad():
                model.head.bias += 1e-6
        return model

    monkeypatch.setattr(timm, "create_model", wrong)
    with pytest.raises(CheckpointError, match=r"was not written: read back by timm\.create_model, it differs"):
        export_hub(trained, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@torch.no_grad()
def test_what_is_pushed_is_one_commit_that_the_hubs_readers_load(tmp_path: Path, hub: ModelHub) -> None:
    _, model = read(tmp_path, *DISTILLED)
    code, said = export(tmp_path, "--push", "someone/deit", "--private")
    assert code == 0, said
    repository = hub.repositories["someone/deit"]
    assert repository.private
    (files,) = repository.commits
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "create_model('hf_hub:someone/deit', pretrained=True)" in files["README.md"].decode()
    assert f"pushed: {hub.url}/someone/deit/commit/" in said
    (call,) = [line for line in said.splitlines() if line.startswith("timm.create_model('hf_hub:")]
    loaded = eval(call, {"timm": timm}).eval()
    assert torch.equal(loaded(images(3)), model(images(3)))
    read_back = read_trained("hf_hub:someone/deit")
    assert (read_back.class_names, read_back.recipe is None) == (tuple(NAMES), False)
    assert torch.equal(build_trained(read_back)(images(3)), model(images(3)))
    push(tmp_path / "out", "someone/deit", private=True)
    assert len(repository.commits) == 2


def test_a_hub_that_refuses_leaves_the_folder_and_a_public_repository_takes_nothing_private(
    tmp_path: Path, hub: ModelHub
) -> None:
    read(tmp_path, *SINGLE)
    assert export(tmp_path)[0] == 0
    push(tmp_path / "out", "someone/open", private=False)
    with pytest.raises(StorageError, match="someone/open is there and everybody can read it, --private was asked"):
        push(tmp_path / "out", "someone/open", private=True)
    assert len(hub.repositories["someone/open"].commits) == 1
    hub.refuses = "/api/models/someone/deit/commit"
    with pytest.raises(
        StorageError, match=r"does not take someone/deit \(.*\): .*/out is whole, `hf upload someone/deit"
    ):
        push(tmp_path / "out", "someone/deit", private=False)
    assert hub.repositories["someone/deit"].commits == []
    hub.refuses = "/api/repos/create"
    with pytest.raises(StorageError) as refused:
        push(tmp_path / "out", "someone/secret", private=True)
    assert f"`hf upload someone/secret {tmp_path}/out --private` tries again" in str(refused.value)


@pytest.mark.parametrize(
    "stalls",
    [
        "POST /api/repos/create",
        "GET /api/models/someone/deit",
        "POST /api/models/someone/deit/preupload",
        "POST /someone/deit.git/info/lfs/objects/batch",
        "PUT /objects/",
        "POST /api/models/someone/deit/commit",
    ],
)
def test_a_hub_that_is_silent_is_given_up(
    stalls: str, tmp_path: Path, hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_timeouts()
    read(tmp_path, *SINGLE)
    assert export(tmp_path)[0] == 0
    hub.stalls = stalls
    monkeypatch.setattr("teacher_cache.storage.hub.WRITE_STALL_S", 0.3)
    monkeypatch.setattr("student.hub.STALL_S", 0.3)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    before = huggingface_hub.utils.get_session().timeout
    told = r"does not take someone/deit \((timed out|Error while uploading .*)\): .*/out is whole, `hf upload some"
    with pytest.raises(StorageError, match=told):
        push(tmp_path / "out", "someone/deit", private=True)
    assert huggingface_hub.utils.get_session().timeout == before
    hub.stalls = None
    push(tmp_path / "out", "someone/deit", private=True)
