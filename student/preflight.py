"""Everything that can be known to be wrong with a training before torch is imported: all at once, with what mends it.

Each rule stands once, here, in `arguments`, `plan`, `pool` or `recipe`; the code that needs it to hold calls the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from student.arguments import TrackingLibrary, source_faults, teacher_faults, tracking_faults
from student.faults import Fault
from student.plan import PlanSettings, pass_blocks, plan_faults, views_needed
from student.pool import pool_faults
from student.recipe import Recipe, relation_faults
from teacher_cache.errors import (
    DiskError,
    MissingLabelError,
    ModelError,
    RecipeError,
    ShardError,
    StoreError,
)
from teacher_cache.messages.recognise import is_part, is_store
from teacher_cache.messages.shown import counted, listed
from teacher_cache.rendering.choice import RENDER_DEFAULT, Render, may_use_device
from teacher_cache.settings import parse_override
from teacher_cache.shards.check import check_are_there
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.find import expand_shards
from teacher_cache.storage.place import as_place
from teacher_cache.teacher.settings import TeacherSettings
from teacher_cache.teacher.timm_names import unknown_model

if TYPE_CHECKING:
    from teacher_cache.store.store import Store


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for besides store and recipe."""

    out: Path
    val: tuple[str, ...] = ()
    views_in_use: int | None = None
    workers: int = 2
    render: Render = RENDER_DEFAULT
    world_size: int = 1
    teacher: TeacherSettings | None = None  # one that runs while the student trains
    allow_policy: bool = False
    checkpoint: str | None = None  # to fine-tune, a file or a timm name: it says what the model is
    model: str | None = None  # or this does, where the file cannot
    resolution: tuple[int, int] | None = None
    log: TrackingLibrary | None = None
    look_at_shards: bool = True  # those of training, on this machine


def find_faults(store: "Store", recipe: Recipe, request: TrainRequest) -> list[Fault]:
    """Every refusal that recipe, store and options make certain.

    What is offered to mend a fault is taken up before the next rule is looked at, so that all offers together train,
    where each fault has one. recipe may be one whose settings do not fit each other: `load_recipe(..., loose=True)`.
    """
    found: list[Fault] = []
    rules = (_store_faults, _plan_faults, _recipe_faults, _label_faults, _memory_faults)
    for rule in rules:
        for fault in rule(store, recipe, request):
            found.append(fault)
            recipe, request = _mended(recipe, request, fault)
    return found


def _mended(recipe: Recipe, request: TrainRequest, fault: Fault) -> tuple[Recipe, TrainRequest]:
    """Recipe and options with what the fault's mend says."""
    option, value = (*fault.mend, "", "")[:2]
    if option == "--set":
        key, setting = parse_override(value, RecipeError)
        return recipe.model_copy(update={key: setting}), request
    if option == "--views-used":
        return recipe, replace(request, views_in_use=int(value))
    if option == "--workers":
        return recipe, replace(request, workers=int(value))
    return recipe, request


def _store_faults(store: "Store", recipe: Recipe, request: TrainRequest) -> Iterator[Fault]:
    """What no number in the recipe mends."""
    yield from policy_faults(store, recipe, request.allow_policy)
    yield from resolution_faults(store, request.resolution)
    yield from _model_faults(recipe, request)
    yield from out_faults(request.out)
    if request.look_at_shards:
        yield from shard_faults(store)
    if request.val:
        yield from validation_faults(store, request.val)
    if request.log is not None:
        yield from tracking_faults(request.log)


def _model_faults(recipe: Recipe, request: TrainRequest) -> Iterator[Fault]:
    return model_faults(recipe) if request.checkpoint is None else source_faults(request.checkpoint, request.model)


def _recipe_faults(store: "Store", recipe: Recipe, request: TrainRequest) -> Iterator[Fault]:
    yield from relation_faults(recipe)


def _plan_faults(store: "Store", recipe: Recipe, request: TrainRequest) -> Iterator[Fault]:
    from teacher_cache.store.labels import skipped_samples

    num_samples = pass_blocks(store.counts, skipped_samples(store)).num_samples
    yield from plan_faults(_plan(store, recipe, request), num_samples, store.views, str(store.path))


def _label_faults(store: "Store", recipe: Recipe, request: TrainRequest) -> Iterator[Fault]:
    if request.teacher is not None:
        yield from online_faults(recipe)
        yield from teacher_faults(request.teacher)
        return
    if recipe.distill == "soft":
        yield from (without := list(topk_faults(store)))
        yield from tau_faults(store, recipe)
        if without:
            return
    if recipe.distill != "none":
        settings = _plan(store, recipe, request)
        views = views_needed(recipe.epochs, recipe.repeats, settings.views_in_use)
        yield from label_faults(store, views, recipe.repeats)


def _memory_faults(store: "Store", recipe: Recipe, request: TrainRequest) -> Iterator[Fault]:
    settings = _plan(store, recipe, request)
    if not settings.local_batch or may_use_device(request.render):
        return  # the loader knows where the pool will lie
    soft = recipe.distill == "soft" and request.teacher is None
    yield from pool_faults(store, settings, request.workers, store.topk if soft else 0)


def _plan(store: "Store", recipe: Recipe, request: TrainRequest) -> PlanSettings:
    return PlanSettings(
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        world_size=request.world_size,
        rank=0,
        repeats=recipe.repeats,
        order=recipe.repeats_order,
        views_in_use=store.views if request.views_in_use is None else request.views_in_use,
        pool_batches=recipe.pool_batches,
    )


# -- rules -----------------------------------------------------------------------------------------------------------


def policy_faults(store: "Store", recipe: Recipe, allow_policy: bool) -> Iterator[Fault]:
    """A store of another policy than the recipe expects."""
    if recipe.policy is not None and recipe.policy != store.policy.name and not allow_policy:
        yield Fault(
            RecipeError,
            f"recipe {recipe.name} expects a store of policy {recipe.policy}, {store.path} has {store.policy.name}",
            ("--allow-policy",),
            "index a store with that policy",
        )


def resolution_faults(store: "Store", resolution: tuple[int, int] | None) -> Iterator[Fault]:
    """Another resolution (H, W) than that of the store's views."""
    if resolution is None or resolution == store.policy.size:
        return
    height, width = resolution
    size = str(height) if height == width else f"[{height},{width}]"
    own = store.policy.size
    yield Fault(
        RecipeError,
        f"--resolution is {height} x {width}, views of {store.path} are {own[0]} x {own[1]}",
        ("--resolution", f"{own[0]}x{own[1]}"),
        f"make a store of that size, `teacher-cache index --like {as_place(store.path)} --set size={size} --views N "
        "--store OTHER`",
    )


def out_faults(out: Path) -> Iterator[Fault]:
    """A file, or a store, where the run's folder shall be: its files would lie among the store's."""
    inside = out if is_store(out) else is_part(out)
    if inside is not None:
        found = f"{out} is a store of labels" if inside is out else f"{out} lies in the store {inside}"
        yield Fault(DiskError, f"{found}, where nothing else may be", advice="choose another --out")
    elif out.exists() and not out.is_dir():
        yield Fault(DiskError, f"{out} is a file, where the run's folder shall be", advice="choose another --out")


def model_faults(recipe: Recipe) -> Iterator[Fault]:
    """A recipe without a model, or with a name that is none of timm's."""
    if recipe.model is None:
        yield Fault(
            RecipeError,
            f"recipe {recipe.name} names no model",
            advice="it takes that of a checkpoint (`student finetune MODEL STORE`), or --set model=NAME",
        )
    elif found := unknown_model(recipe.model):
        yield Fault(ModelError, f"model: {found}")


def shard_faults(store: "Store") -> Iterator[Fault]:
    """Training shards of this machine that are not there: the last of them would be missed hours later."""
    try:
        check_are_there(store.index, range(store.index.num_shards))
    except ShardError as error:
        yield Fault(ShardError, str(error))


def validation_faults(store: "Store", patterns: Sequence[str]) -> Iterator[Fault]:
    """Validation shards that are not there, or whose classes.json names other classes than the store's."""
    try:
        names = class_rule(expand_shards(patterns), store.index.class_from).names
    except ShardError as error:
        yield Fault(ShardError, f"--val: {error}")
        return
    if names is not None and names != store.class_names:
        yield other_classes(patterns, names, store.class_names)


def other_classes(patterns: Sequence[str], there: Sequence[str], here: Sequence[str]) -> Fault:
    """Validation shards whose class names differ from the model's."""
    differing = next(
        (
            f"class {number} is {theirs} there and {ours} here"
            for number, (theirs, ours) in enumerate(zip(there, here, strict=False))
            if theirs != ours
        ),
        f"{counted(len(there), 'class')} there and {len(here)} here",
    )
    return Fault(
        ShardError,
        f"validation shards {listed(patterns, limit=None)} have other classes than the model ({differing})",
        advice="put the training shards' classes.json beside them",
    )


def online_faults(recipe: Recipe) -> Iterator[Fault]:
    """A teacher that nobody asks."""
    if recipe.distill == "none":
        yield Fault(
            RecipeError,
            f"recipe {recipe.name} does not distil, but there is a --teacher",
            ("--set", "distill=hard"),
            "leave out --teacher",
        )


def topk_faults(store: "Store") -> Iterator[Fault]:
    """Soft labels that the store does not hold."""
    from teacher_cache.store.status import nobodys_labels

    if store.topk:
        return
    if (nobodys := nobodys_labels(store)) is not None:
        yield Fault(StoreError, f"soft labels are wanted, and {nobodys}")
        return
    if store.teacher is None:
        advice = f"run `teacher-cache fill {as_place(store.path)} --teacher NAME --topk K --tau T`"
        yield Fault(StoreError, f"{store.path} is not filled yet, soft labels are wanted", advice=advice)
        return
    yield Fault(
        StoreError,
        f"{store.path} holds labels alone (topk 0), soft labels are wanted",
        ("--set", "distill=hard"),
        f"make another store with `teacher-cache index --like {as_place(store.path)} --store OTHER` and run "
        "`teacher-cache fill OTHER --topk K --tau T`",
    )


def tau_faults(store: "Store", recipe: Recipe) -> Iterator[Fault]:
    """Another temperature than that of the stored probabilities."""
    if store.topk and store.tau != recipe.distill_tau:
        yield Fault(
            RecipeError,
            f"recipe {recipe.name} distils at distill_tau {recipe.distill_tau:g}, the probabilities of {store.path} "
            f"are at tau {store.tau:g}",
            ("--set", f"distill_tau={store.tau!r}"),
            f"fill another store with --tau {recipe.distill_tau:g}",
        )


def label_faults(store: "Store", views: Sequence[int], repeats: int) -> Iterator[Fault]:
    """Views of the plan, which are 0 to N-1, without labels."""
    units = store.missing_units(range(len(views)))
    if not units:
        return
    layout = store.layout
    lacking = sum(map(layout.num_views, units))
    needed = layout.num_samples * len(layout.whole_groups(range(len(views))))
    first = units[0]
    lacked = layout.group_views(first.group)
    wanted = range(lacked.start, layout.group_views(units[-1].group).stop)
    teacher = " --teacher NAME" if store.teacher is None else ""
    whole = wanted.start  # views that are labelled of every sample: those of the groups before
    yield Fault(
        MissingLabelError,
        f"{counted(lacking, 'label', of=needed)} that the plan needs {'is' if lacking == 1 else 'are'} missing, first "
        "those of "
        f"shard {store.shard_name(first.shard)}, views {lacked[0]} to {lacked[-1]}",
        ("--views-used", str(whole)) if whole >= repeats else (),
        store.records.fill(wanted, teacher),
    )
