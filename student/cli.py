"""`student train | finetune | recipes | evaluate | export | results`."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from student.faults import Fault, all_mends
from teacher_cache.endings import OneLineErrors, stopping
from teacher_cache.errors import CheckpointError
from teacher_cache.messages.recognise import is_run
from teacher_cache.messages.shown import MESSAGE, counted, shown
from teacher_cache.options import (
    COUNT,
    MOST_BATCH,
    Command,
    FiniteRange,
    Folder,
    NamedPlace,
    Whole,
    cache_options,
    device_option,
    endpoint_option,
    json_option,
    model_argument,
    old_model_option,
    ops_option,
    rank_timeout_option,
    render_option,
    set_option,
    shards_option,
    store_argument,
    teacher_options,
    worker_timeout_option,
    workers_option,
)
from teacher_cache.processes.threads import wait_asleep
from teacher_cache.processes.ties import is_first_rank
from teacher_cache.storage.place import as_place
from teacher_cache.store.presence import check_is_store
from teacher_cache.terminal import say, say_aside, say_json, say_lines, terminal

if TYPE_CHECKING:
    from student.curves import Chart
    from student.evaluate import Tally
    from student.finetune import Start
    from student.options import TrainOptions
    from student.recipe import Recipe
    from student.trained import TrainedModel
    from teacher_cache.rendering.choice import Render
    from teacher_cache.storage.cache import NodeCache
    from teacher_cache.store.store import Store
    from teacher_cache.teacher.settings import TeacherSettings
    from teacher_cache.teacher.teacher import Teacher

MODEL_HELP = "Architecture of a file that does not say it, or that names code: timm name, or FILE.py:FUNCTION."
LEAST_SAID = 20  # characters of what a recipe is, however narrow the terminal
FILES_OWN = "  [default: what the file says]"


@click.group(cls=OneLineErrors, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train students from a store of teacher labels, and evaluate them."""
    wait_asleep()


_TRAINING_OPTIONS = (
    click.option("--val", multiple=True, metavar="PATTERN", help="Validation shards. May be repeated."),
    click.option(
        "--out",
        required=True,
        metavar="FOLDER",
        type=Folder(path_type=Path, readable=False),
        help="Folder of the run; the same one resumes.",
    ),
    set_option("Override a recipe setting: epochs=100."),
    click.option(
        "--views-used",
        "views_in_use",
        type=Whole(1),
        metavar=COUNT,
        help="Use this many views of a sample, from 0 on.  [default: all of the store's]",
    ),
    workers_option,
    render_option,
    click.option(
        "--device-pool",
        "device_pool_gb",
        type=FiniteRange(0, 1_000_000),
        metavar="GB",
        help="How much of a GPU that renders the shuffle pool may take; beyond, it lies in memory.  [default: a "
        "quarter of the GPU's]",
    ),
    cache_options,
    worker_timeout_option,
    rank_timeout_option,
    device_option,
    shards_option,
    ops_option,
    click.option(
        "--on-drift", type=click.Choice(["stop", "warn"]), default="stop", help="When pixels are not the store's."
    ),
    click.option("--allow-policy", is_flag=True, help="Train on a store of another policy than the recipe's."),
    click.option(
        "--checkpoint-every",
        "checkpoint_every_s",
        default=600.0,
        metavar="SECONDS",
        help="Between two checkpoints.",
    ),
    click.option(
        "--log",
        "--log-to",  # torchrun takes --log, wherever it stands, for one of its own
        "log",
        type=click.Choice(["wandb", "trackio"]),
        help="Send the curves there, too; under torchrun write --log-to.  [default: CSV and TensorBoard alone]",
    ),
    teacher_options(
        "Ask this teacher online: timm name or FILE.py:FUNCTION.  [default: labels are read from the store]",
        "The teacher's weights; alone, for the teacher that the store names.  [default: timm's own]",
    ),
)


def _training_options(default_recipe: str | None = None) -> Callable[[Command], Command]:
    """What `train` and `finetune` have in common, STORE and --recipe before the rest."""
    recipe = click.option(
        "--recipe",
        "recipe_name",
        required=default_recipe is None,
        default=default_recipe,
        metavar="NAME",
        help="Shipped recipe (`student recipes` lists them), or a TOML file.",
    )

    def add(command: Command) -> Command:
        for option in reversed((store_argument, recipe, *_TRAINING_OPTIONS)):
            command = option(command)
        return command

    return add


@main.command()
@_training_options()
@click.option("--model", metavar="NAME", help="The model: timm name, or FILE.py:FUNCTION.  [default: the recipe's]")
def train(**settings: Any) -> None:
    """Train a student. A recipe's file may name timm's models and this project's own; code is named by --model.

    After SIGTERM, SIGUSR1 or Ctrl-C it writes a checkpoint and exits with 75: run it again.
    """
    _train(**settings)


@main.command()
@model_argument
@_training_options(default_recipe="deit_base_384")
@click.option("--model", metavar="NAME", help=f"{MODEL_HELP} Also of a recipe that names code.{FILES_OWN}")
@click.option("--ema", is_flag=True, help="Start from the moving average of its weights.")
@click.option(
    "--resolution",
    metavar="N or HxW",
    help="The views' size in pixels, checked against the store's.  [default: the store's, unchecked]",
)
@click.option("--reset-heads", is_flag=True, help="Draw the heads anew even where the classes are the same.")
def finetune(
    trained_model: str, model: str | None, ema: bool, resolution: str | None, reset_heads: bool, **settings: Any
) -> None:
    """Train a trained model further: at another resolution, or on another data set's classes.

    MODEL is a file, or a timm name for timm's weights. The position embedding is resized to the store's views, heads
    are drawn anew where the classes are others, and the model is evaluated before the first step. Signals as for
    `train`.
    """
    _train(
        **settings,
        code=model,
        start=_FinetuneStart(trained_model, model, ema, _resolution(resolution), reset_heads),
    )


class _FinetuneStart(NamedTuple):
    """The trained model that a fine-tuning starts from, as the command line names it."""

    source: str
    model: str | None
    ema: bool
    resolution: tuple[int, int] | None
    reset_heads: bool

    def adapted(self, recipe: "Recipe", store: "Store") -> "Start":
        """Read it, and bring it to the store's views and classes."""
        from student.finetune import adapt

        trained = _read_trained(self.source, self.model, self.ema)
        start = adapt(trained, recipe, store, reset_heads=self.reset_heads)
        if is_first_rank():
            for note in start.notes:
                say(note)
        return start


def _train(
    *,
    store_path: str,
    recipe_name: str,
    overrides: tuple[str, ...],
    shards: tuple[str, ...],
    ops: str | None,
    allow_policy: bool,
    teacher: str | None,
    checkpoint: str | None,
    model: str | None = None,
    code: str | None = None,
    start: _FinetuneStart | None = None,
    **run: Any,
) -> None:
    """run: the options of the run itself, by the names of TrainOptions."""
    if run["device_pool_gb"] is not None and run["render"] == "cpu":
        raise click.UsageError("--device-pool is of a GPU that renders: leave out --render cpu, or leave it out")
    check_is_store(store_path)

    from student.preflight import TrainRequest, find_faults
    from student.recipe import load_recipe
    from teacher_cache.store.places import open_moved
    from teacher_cache.teacher.settings import TeacherSettings

    recipe = load_recipe(recipe_name, overrides, model=model, code=code, loose=True)
    store = open_moved(store_path, shards, ops=ops, cache=run["cache"])
    online = TeacherSettings(teacher, checkpoint) if teacher or checkpoint else None
    request = TrainRequest(
        **{name: run[name] for name in ("out", "val", "views_in_use", "workers", "render", "log")},
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        teacher=online,
        allow_policy=allow_policy,
        checkpoint=start.source if start else None,
        model=start.model if start else None,
        resolution=start.resolution if start else None,
        # of a run that is there only `train` knows whether it needs them, of the other ranks each tells what it lacks
        look_at_shards=_is_first_here() and not is_run(run["out"]),
    )
    _refuse_all(find_faults(store, recipe, request))

    # what needs torch, seconds to import, comes only now
    from student.options import TrainOptions

    options = TrainOptions(**run, teacher=online)
    initial = None
    if start is not None:
        adapted = start.adapted(recipe, store)
        recipe, initial = adapted.recipe, adapted.state
    _run(store, recipe, options, initial)


def _run(store: "Store", recipe: "Recipe", options: "TrainOptions", initial: dict[str, Any] | None) -> None:
    """This rank's part of a training; what it gave, or that it was stopped."""
    from student.results import accuracy_table
    from student.train import STOPPED, train

    with stopping(STOPPED):
        accuracy = train(store, recipe, options, say, initial=initial)
    if accuracy:
        terminal().print(accuracy_table({recipe.name: accuracy}))


def _read_trained(source: str, model: str | None, ema: bool) -> "TrainedModel":
    """A trained model; what is worth to know of its file is said beside what is asked for."""
    from student.trained import read_trained

    trained = read_trained(source, model=model, ema=ema)
    for note in trained.notes:
        _note(note)
    return trained


def _note(message: str) -> None:
    """One line beside what is asked for, of a job's first rank."""
    if is_first_rank():
        say_aside(message)


def _refuse_all(faults: Sequence[Fault]) -> None:
    """Say every fault, a line each, and what mends all of them; end the program where there is one."""
    if not faults:
        return
    if _is_first_here():
        for fault in faults:
            say(f"error: {fault}", err=True)
        if len(faults) > 1 and (mends := all_mends(faults)):
            left = sum(not fault.mend for fault in faults)
            what = f"all but {left} of these" if left else "all of these"
            say(f"{what} are mended by: {shlex.join(mends)}", err=True)
    sys.exit(1)


def _is_first_here() -> bool:
    """Whether this process speaks for its machine: as the first of the job's ranks there, or alone."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _resolution(text: str | None) -> tuple[int, int] | None:
    """N or HxW."""
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise click.BadParameter(f"{text!r} is neither one number nor HxW", param_hint="--resolution")
    return sides[0], sides[-1]


@main.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """List the shipped recipes; `student recipes show NAME` prints every setting of one."""
    if context.invoked_subcommand is not None:
        return
    from student.plan import num_views_read
    from student.recipe import load_recipe, read_header, shipped_recipes

    names = shipped_recipes()
    width = max(map(len, names))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else MESSAGE
    say(f"{'recipe':<{width}}  policy    distill  epochs  views  what")
    for name in names:
        recipe = load_recipe(name)
        views = num_views_read(recipe.epochs, recipe.repeats)
        row = f"{name:<{width}}  {recipe.policy or 'any':<8}  {recipe.distill:<7}  {recipe.epochs:>6}  {views:>5}  "
        room = max(columns - len(row), LEAST_SAID)
        what = " ".join(read_header(name).split()).partition(". ")[0]
        say(row + (what if len(what) <= room else f"{what[: room - 3]}..."))


@recipes.command()
@click.argument("name")
@set_option("Show it with a setting overridden: epochs=100.")
def show(name: str, overrides: tuple[str, ...]) -> None:
    """Print a recipe whole, as a TOML file: every setting with its source, and how many views it needs."""
    from student.recipe import describe_recipe, load_sourced_recipe

    say_lines(describe_recipe(load_sourced_recipe(name, overrides)))


@main.command()
@model_argument
@endpoint_option
@click.option("--model", "model_name", metavar="NAME", help=MODEL_HELP + FILES_OWN)
@click.option("--val", multiple=True, required=True, metavar="PATTERN", help="Validation shards. May be repeated.")
@click.option("--ema", is_flag=True, help="The moving average of the weights.")
@click.option(
    "--crop-pct",
    type=FiniteRange(0.01, 1),
    metavar="SHARE",
    help="The centre crop's share of the resized image.  [default: the recipe's or timm's; other files 0.875]",
)
@click.option(
    "--class-from",
    metavar="PLACE",
    help="Where a sample's class stands: cls, or json:FIELD.  [default: as in training]",
)
@click.option(
    "--image-from", metavar="EXTENSION", help="Which image of a sample: jpg, left.jpg.  [default: as in training]"
)
@click.option(
    "--tta", type=click.Choice(["flip"]), help="Mean logits of each view and its mirror image.  [default: of the view]"
)
@teacher_options(
    "Compare with this teacher: timm name, or FILE.py:FUNCTION.  [default: with none]",
    "The teacher's weights.  [default: timm's own]",
)
@click.option(
    "--real",
    "real_path",
    metavar="FILE",
    help="ImageNet-ReaL's real.json, for ImageNet's validation images.  [default: the shards' classes alone]",
)
@json_option
@click.option(
    "--batch-size", default=256, type=Whole(1, MOST_BATCH), metavar="IMAGES", help="Images that go through at once."
)
@workers_option
@render_option
@cache_options
@worker_timeout_option
@rank_timeout_option
@device_option
def evaluate(
    trained_model: str,
    model_name: str | None,
    val: tuple[str, ...],
    ema: bool,
    crop_pct: float | None,
    class_from: str | None,
    image_from: str | None,
    tta: Literal["flip"] | None,
    teacher: str | None,
    checkpoint: str | None,
    real_path: str | None,
    as_json: bool,
    batch_size: int,
    workers: int,
    render: "Render",
    cache: "NodeCache | None",
    worker_timeout_s: float,
    rank_timeout_s: float,
    device: str | None,
) -> None:
    """Who is how good on validation shards: class head, distillation head, both fused, and a teacher.

    MODEL is a trained one: a file, or a timm name for timm's weights. Top-1 with its 95 % interval and top-5, on which
    share of samples two of them disagree, and how alike class and distillation token are after each block. Under
    torchrun each rank takes its part.
    """
    if checkpoint and not teacher:
        raise click.UsageError(
            f"--checkpoint {checkpoint} is a teacher's weights: name it with --teacher (the trained model is MODEL)"
        )
    from student.arguments import pattern_faults, source_faults, teacher_faults

    compared = None
    if teacher:
        from teacher_cache.teacher.settings import TeacherSettings

        compared = TeacherSettings(teacher, checkpoint)
    faults = [*source_faults(trained_model, model_name), *pattern_faults(val)]
    _refuse_all(faults if compared is None else [*faults, *teacher_faults(compared)])

    # what needs torch, seconds to import, comes only now
    from student.evaluate import tally
    from student.ranks import check_same
    from student.real import read_real
    from student.trained import build_trained
    from student.validation import ValidationSet, index_validation
    from teacher_cache.job import join_job
    from teacher_cache.rendering.choice import choose_rendering
    from teacher_cache.teacher.weights import state_sha256

    with join_job(device, workers=workers, timeout_s=rank_timeout_s, group=True) as job:
        trained = _read_trained(trained_model, model_name, ema)
        if crop_pct is not None:
            trained = replace(trained, preprocessing=replace(trained.preprocessing, crop_pct=crop_pct))
        model = build_trained(trained).to(job.device)
        index = index_validation(
            val,
            trained.class_names,
            class_from=class_from or trained.class_from,
            image_from=image_from or trained.image_from,
            num_classes=trained.num_classes,
            cache=cache,
        )
        if job.world_size > 1:
            check_same(
                job,
                {
                    "model": {"weights": state_sha256(trained.state), "preprocessing": trained.preprocessing},
                    "validation": {"shards": [(shard.name, shard.hash) for shard in index.shards], "tta": tta},
                    "teacher": {"name": teacher, "checkpoint": checkpoint},
                },
            )
        real = read_real(real_path, index, trained.num_classes) if real_path else None
        opened = _open_compared(replace(compared, device=job.device), trained) if compared else None
        rendering = choose_rendering(render, trained.preprocessing.policy(), job.device)
        rendering.tell(job, say_aside)
        with ValidationSet(
            index,
            trained.preprocessing,
            workers=workers,
            rank=job.rank,
            world_size=job.world_size,
            worker_timeout_s=worker_timeout_s,
            cache=cache,
            rendering=rendering,
            warn=say_aside,
        ) as validation:
            counts = tally(model, validation, job.device, batch_size=batch_size, tta=tta, teacher=opened, real=real)
        speaks = job.first
    if speaks:
        asked = opened.identity.name if opened else None
        _say_evaluation(counts, trained, tta=tta, teacher=asked, as_json=as_json)


def _open_compared(settings: "TeacherSettings", trained: "TrainedModel") -> "Teacher":
    """A teacher that sees what the trained model does."""
    from teacher_cache.teacher.teacher import open_teacher

    return open_teacher(
        settings,
        num_classes=trained.num_classes,
        view_size=trained.preprocessing.size,
        stored=None,
        note=_note,
    )


def _say_evaluation(
    counts: "Tally", trained: "TrainedModel", *, tta: str | None, teacher: str | None, as_json: bool
) -> None:
    from student.report import Evaluation, report, tables

    recipe = trained.recipe
    evaluation = Evaluation(
        checkpoint=trained.source,
        name=recipe.name if recipe else trained.model,
        ema=trained.weights == "ema",
        fusion=recipe.fusion if recipe else None,
        preprocessing=trained.preprocessing,
        tta=tta,
        teacher=teacher,
    )
    values = report(evaluation, counts)
    if as_json:
        say_json(values)
    else:
        terminal().print(tables(values), crop=False)


@main.command()
@model_argument
@endpoint_option
@old_model_option
@click.option("--model", "model_name", metavar="NAME", help=MODEL_HELP + FILES_OWN)
@click.option("--ema", is_flag=True, help="The moving average of the weights.")
@click.option(
    "--format",
    "file_format",
    required=True,
    type=click.Choice(["safetensors", "onnx", "torch-export", "hf"]),
    help="What is written: weights, a graph, or a folder for timm and the Hugging Face Hub.",
)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=Folder(path_type=Path, readable=False),
    help="*.safetensors, *.onnx or *.pt2; of hf a folder.",
)
@click.option(
    "--outputs", type=click.Choice(["fused", "heads"]), default="fused", help="Of a graph: scores, or logits by head."
)
@click.option(
    "--fusion",
    type=click.Choice(["softmax_sum", "logit_mean"]),
    help="Of a graph's scores, which both heads give.  [default: the recipe's]",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--licence",
    metavar="ID",
    help="Of hf: the weights' licence, as the Hub has it: apache-2.0.  [default: none is stated]",
)
@click.option(
    "--push",
    "repo",
    metavar="OWNER/NAME",
    help="Of hf: upload the folder to this repository of the Hub.  [default: nowhere]",
)
@click.option("--private", is_flag=True, help="With --push: nobody else may read it.")
def export(
    trained_model: str,
    model_name: str | None,
    ema: bool,
    file_format: Literal["safetensors", "onnx", "torch-export", "hf"],
    out: Path,
    outputs: Literal["fused", "heads"],
    fusion: Literal["softmax_sum", "logit_mean"] | None,
    force: bool,
    licence: str | None,
    repo: str | None,
    private: bool,
) -> None:
    """Write a trained model for others, read it back and compare it with PyTorch.

    MODEL is a file, or a timm name for timm's weights. safetensors holds the weights, as timm reads them. onnx and
    torch-export hold a graph of any batch size: `images`, normalised, float32, (B, 3, H, W) -> `scores`, or
    `class_logits` and `distillation_logits`. hf is a folder of weights, configuration and card: timm.create_model loads
    it as local-dir:FOLDER, and where it is uploaded, as hf_hub:REPO. Every file says which preprocessing it needs.
    """
    if file_format != "hf" and (licence or repo is not None or private):
        raise click.UsageError("--licence, --push and --private are for --format hf")
    if private and repo is None:
        raise click.UsageError("--private goes with --push")
    if file_format == "hf":
        if force or fusion or outputs != "fused":
            raise click.UsageError("--force, --outputs and --fusion are for files, --format hf makes a folder")
        _export_hub(trained_model, model_name, out, ema=ema, licence=licence, repo=repo, private=private)
        return
    if file_format == "safetensors" and (fusion or outputs != "fused"):
        raise click.UsageError("--outputs and --fusion are for graphs, --format safetensors holds weights")
    if fusion and outputs == "heads":
        raise click.UsageError("--fusion is for --outputs fused: with heads each head's logits are given")
    from student.arguments import export_faults, source_faults

    _refuse_all([*source_faults(trained_model, model_name), *export_faults(trained_model, out, file_format, force)])

    # what needs torch, seconds to import, comes only now
    from student.export import CHECKED_BATCHES, timm_call
    from student.export import export as write

    trained = _read_trained(trained_model, model_name, ema)
    chosen = fusion or (trained.recipe.fusion if trained.recipe else "softmax_sum")
    written = write(trained, out, file_format, outputs=outputs, fusion=chosen, force=force)
    holds = f" ({', '.join(written.outputs)})" if written.outputs else ""
    compared = "" if written.difference is None else f", largest difference {written.difference:.2g}"
    batches = "" if written.difference is None else f" at batches of {' and '.join(map(str, CHECKED_BATCHES))}"
    say(f"wrote {out}{holds}; {written.how}{compared}{batches}")
    if file_format == "safetensors" and ":" not in trained.model:
        say(timm_call(trained, out))


def _export_hub(
    source: str, model: str | None, out: Path, *, ema: bool, licence: str | None, repo: str | None, private: bool
) -> None:
    """The folder, and the way to the Hub."""
    from student.arguments import hub_faults, push_faults, source_faults

    pushed = push_faults(repo) if repo is not None else ()
    _refuse_all([*source_faults(source, model), *hub_faults(source, out, licence), *pushed])

    from student.hub import export_hub, push

    trained = _read_trained(source, model, ema)
    written = export_hub(trained, out, licence=licence, repo=repo)
    say(f"wrote {out}; {written.how}, largest difference {written.difference:.2g}")
    say(f"timm.create_model({f'local-dir:{out}'!r}, pretrained=True)")
    if repo:
        say(f"pushed: {push(out, repo, private=private)}")
        say(f"timm.create_model({f'hf_hub:{repo}'!r}, pretrained=True)")


@main.command()
@click.argument("runs", nargs=-1, required=True, type=NamedPlace(), metavar="[NAME=]RUN...")
@click.option(
    "--plot",
    metavar="FILE.png",
    help="Show top-1 and loss by epoch, too, also of unfinished runs, and draw them; - for the terminal alone.  "
    "[default: the table alone]",
)
def results(runs: tuple[str, ...], plot: str | None) -> None:
    """One table of the final accuracy of finished runs."""
    from student.curves import TERMINAL, charts, draw, picture_faults, read_curves
    from student.results import accuracy_table, final_accuracy

    _refuse_all(list(picture_faults(plot)) if plot is not None else [])
    found, curves, wrong = {}, {}, []
    for name, folder in _named_runs(runs).items():
        try:
            if plot is not None:
                curves[name] = read_curves(folder)
            if plot is None or (folder / "results.json").is_file():
                found[name] = final_accuracy(folder / "results.json")
                if plot is None and not found[name]:
                    evaluate = f"`student evaluate {as_place(f'{folder}/checkpoint.pt')} --val ...`"
                    wrong.append(
                        f"{folder} was trained without --val: {evaluate} says how good it is, --plot - draws its loss"
                    )
        except CheckpointError as error:
            wrong.append(str(error))
    for message in wrong:
        say(f"error: {message}", err=True)
    if wrong:
        sys.exit(1)
    if any(found.values()):
        terminal().print(accuracy_table(found))
    for name in (name for name, accuracy in found.items() if not accuracy):
        say(f"{name} was trained without --val")
    for name in (name for name in curves if name not in found):
        say(f"{name} is not finished: {counted(curves[name].epochs[-1], 'epoch')} so far")
    if plot is not None:
        drawn = charts(curves)
        _print_charts(drawn)
        if plot != TERMINAL:
            draw(drawn, Path(plot))
            say(f"wrote {plot}")


def _named_runs(runs: Sequence[str]) -> dict[str, Path]:
    """Name -> folder. UsageError where two runs have one name, which would be one row."""
    named: dict[str, Path] = {}
    for run in runs:
        given, folder = _name_and_folder(run)
        name = given or Path(folder).absolute().name
        if name in named:
            one, two, both = (shown(each, limit=None) for each in (str(named[name]), folder, name))
            raise click.UsageError(f"{one} and {two} are both called {both}: name one NAME=RUN")
        named[name] = Path(folder)
    return named


def _name_and_folder(run: str) -> tuple[str, str]:
    """The two of NAME=RUN, "" where there is no name. Either may have an equals sign in it: what is there counts."""
    signs = [place for place, character in enumerate(run) if character == "="]
    if not signs or os.path.isdir(run):
        return "", run
    splits = [(run[:place], run[place + 1 :]) for place in signs]
    return next((split for split in splits if os.path.isdir(split[1])), splits[0])


def _print_charts(drawn: Sequence["Chart"]) -> None:
    from student.curves import chart_table

    console = terminal()
    for chart in drawn:
        console.print()
        console.print(chart_table(chart, console.width, ascii_only=console.options.ascii_only))


if __name__ == "__main__":
    main()
