"""`teacher-cache index | fill | extend | status | verify | publish | unpack | policies`."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from teacher_cache.endings import INTERRUPTED, OneLineErrors, stopping
from teacher_cache.errors import DiskError, StoreError, TeacherError
from teacher_cache.messages.shown import counted
from teacher_cache.options import (
    COUNT,
    LARGEST_SEED,
    MOST_BATCH,
    MOST_WORKERS,
    NUMBER,
    ActorCount,
    FiniteRange,
    NamedPlace,
    Whole,
    cache_options,
    device_option,
    endpoint_option,
    json_option,
    ops_option,
    rank_timeout_option,
    render_option,
    set_option,
    shards_option,
    store_argument,
    teacher_options,
    timeout_option,
    worker_timeout_option,
    workers_option,
)
from teacher_cache.processes.threads import wait_asleep
from teacher_cache.processes.ties import is_first_rank
from teacher_cache.processes.timeouts import LEASE_S
from teacher_cache.storage.place import as_place, to_place
from teacher_cache.store.presence import check_is_store
from teacher_cache.terminal import say, say_aside, say_json, say_lines, warn

if TYPE_CHECKING:
    from teacher_cache.actors import ActorFill, ActorsWanted
    from teacher_cache.fill import FillOptions
    from teacher_cache.rendering.choice import Render
    from teacher_cache.shards.index import Index
    from teacher_cache.storage.cache import NodeCache
    from teacher_cache.store.create import IndexRequest
    from teacher_cache.store.store import Store
    from teacher_cache.teacher.settings import TeacherSettings
    from teacher_cache.teacher.teacher import Teacher
    from teacher_cache.verify import VerifyReport


@click.group(cls=OneLineErrors, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Label every augmented view with a convnet teacher once, in a store that any number of students train from."""
    wait_asleep()


@main.command()
@click.argument("shards", nargs=-1)
@click.option(
    "--store", "store_path", required=True, type=NamedPlace(), metavar="STORE", help="Folder, or URL, of the new store."
)
@click.option(
    "--policy",
    metavar="NAME",
    help="Augmentation: deit, transfer, cifar, digits, none, or a TOML file.  [default: that of --like]",
)
@set_option("Override a policy setting: size=32.")
@click.option("--ops", metavar="FILE.py:FUNCTION", help="RandAugment operations of your own, by name.  [default: none]")
@click.option(
    "--views",
    type=Whole(1),
    metavar=COUNT,
    help="How many augmented views a sample has, rounded up to whole groups.  [default: --like's]",
)
@click.option(
    "--seed", type=Whole(0, LARGEST_SEED), metavar=NUMBER, help="Of all that is drawn.  [default: 0, or --like's]"
)
@click.option(
    "--group",
    type=Whole(1),
    metavar=COUNT,
    help="How many views are filled together.  [default: 16 or all views if fewer, or --like's]",
)
@click.option(
    "--unit-samples",
    type=Whole(64),
    metavar=COUNT,
    help="How many samples are filled together, a multiple of 64.  [default: 4096, or --like's]",
)
@click.option(
    "--class-from",
    metavar="PLACE",
    help="Where a sample's class stands: cls, or json:FIELD (json:a.b in an object).  [default: cls]",
)
@click.option(
    "--image-from",
    metavar="EXTENSION",
    help="Which member is a sample's image, by all after the first dot of its name: jpg, left.jpg. Every later command "
    "reads the same.  [default: the one of jpg, jpeg, png, webp]",
)
@click.option(
    "--classes",
    "classes_file",
    metavar="FILE",
    help="Class names in order (JSON).  [default: classes.json by the shards]",
)
@click.option("--whole", is_flag=True, help="Fingerprint all of each image, not only its end.")
@click.option(
    "--like",
    type=NamedPlace(),
    metavar="STORE",
    help="Take index, policy, seed and groups from this store, reading no shard.  [default: shards are read]",
)
@click.option(
    "--devices", type=click.Choice(["one", "any"]), help="May fills use other devices than the first?  [default: one]"
)
@click.option(
    "--max-pixels",
    type=Whole(1, 1 << 33),
    metavar=COUNT,
    help="Height x width, in pixels, of the largest image that is decoded.  [default: 178956970, or --like's]",
)
@click.option("--workers", default=4, type=Whole(1, MOST_WORKERS), metavar=COUNT, help="Processes that walk shards.")
@endpoint_option
def index(
    shards: tuple[str, ...],
    store_path: str,
    policy: str | None,
    overrides: tuple[str, ...],
    ops: str | None,
    classes_file: str | None,
    like: str | None,
    workers: int,
    **settings: Any,
) -> None:
    """Index WebDataset SHARDS (paths, globs, brace patterns) into a new store, with its policy and seed frozen.

    A store that is there is compared with what is asked: views that it lacks are added, shards that have moved are
    noted, other settings are refused by name.
    """
    from teacher_cache.storage.opening import check_fillable
    from teacher_cache.store.create import IndexRequest, check_grid, choose_policy, create_alike, create_store
    from teacher_cache.store.making import check_in_bucket, is_taken
    from teacher_cache.store.presence import check_outside
    from teacher_cache.store.store import Store

    if bool(shards) == bool(like):
        raise click.UsageError("give either SHARDS or --like OTHER_STORE")
    there = Store.open(store_path) if is_taken(to_place(store_path)) else None
    if there is None:
        check_fillable(to_place(store_path))
        check_in_bucket(to_place(store_path))
        check_outside(to_place(store_path))
    other = Store.open(like) if like else None
    base = other or there  # its settings count where none are given
    if policy is None and base is None:
        raise click.UsageError("name a --policy: deit, transfer, cifar, digits, none or a TOML file")
    if settings["views"] is None and base is None:
        raise click.UsageError("say how many --views a sample shall have")
    request = IndexRequest(choose_policy(policy, overrides, ops, base), **settings)
    if there is None:
        try:
            if other is not None:
                store = create_alike(store_path, other, request, classes_file)
            else:
                check_grid(request)
                found = _walk(shards, store_path, request, classes_file=classes_file, workers=workers)
                store = create_store(store_path, found, request)
            _say_created(store_path, store, request.views or (other or store).views)
        except (DiskError, StoreError):
            if not is_taken(to_place(store_path)):
                raise
            there = Store.open(store_path)  # which another process has made meanwhile
        shutil.rmtree(_scratch(store_path), ignore_errors=True)
    if there is not None:
        _index_again(there, request, shards, other=other, classes_file=classes_file, workers=workers)


@main.command()
@store_argument
@teacher_options(
    "timm name, path/file.py:function or package.module:function.  [default: the store's]",
    "The teacher's weights (.pth, .pt, .safetensors).  [default: timm's own]",
)
@click.option(
    "--views",
    "view_range",
    metavar="A:B",
    help="A range: only views A to B-1, rounded out to whole groups.  [default: all of the store's]",
)
@click.option("--mean", metavar="R,G,B", help="In [0, 1].  [default: the model's own, else ImageNet's]")
@click.option("--std", metavar="R,G,B", help="In [0, 1].  [default: the model's own, else ImageNet's]")
@click.option(
    "--input-size",
    type=Whole(1, 1 << 16),
    metavar="PIXELS",
    help="Resize views to this height and width for the teacher.  [default: the views' own size]",
)
@device_option
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="Of the teacher's arithmetic.  [default: bf16 on CUDA, else fp32]",
)
@click.option(
    "--batch-size",
    type=Whole(1, MOST_BATCH),
    metavar="VIEWS",
    help="The one batch shape, in views.  [default: 256 on CUDA, else 64]",
)
@click.option("--compile/--no-compile", "compiled", default=None, help="torch.compile the teacher.  [default: no]")
@click.option(
    "--topk",
    type=Whole(0),
    metavar="K",
    help="Store the K largest probabilities of a view too.  [default: the store's, or 0]",
)
@click.option(
    "--tau", type=float, metavar="T", help="Temperature of these probabilities.  [default: the store's, or 1]"
)
@workers_option
@render_option
@cache_options
@worker_timeout_option
@rank_timeout_option
@click.option(
    "--claim",
    is_flag=True,
    help="Any number of jobs, on any machines that see the store, share its units. Ranks of one job do so anyway.",
)
@timeout_option(
    "lease", LEASE_S, "A unit whose worker has given no sign for so many seconds is another's; the same in all jobs."
)
@click.option(
    "--engine",
    type=click.Choice(["here", "ray"]),
    default="here",
    help="Where it works: in this process (and the ranks of torchrun), or in actors of a Ray cluster.",
)
@click.option(
    "--actors",
    type=ActorCount(),
    default="1:1",
    metavar="LEAST:MOST",
    help="With --engine ray: how many actors, as far as the cluster has room; with fewer than LEAST for five minutes "
    "it ends.",
)
@click.option(
    "--gpus-per-actor",
    default=0,
    type=FiniteRange(0, 1024),
    metavar="SHARE",
    help="With --engine ray: GPUs of each actor, or a share of one.",
)
@shards_option
@ops_option
@click.option("--skip-bad", is_flag=True, help="Skip and list images that cannot be decoded.")
@click.option("--allow-low-agreement", is_flag=True, help="Go on though labels agree no better than chance.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Time one unit, commit nothing, print the cost.")
def fill(
    store_path: str,
    teacher: str | None,
    checkpoint: str | None,
    view_range: str | None,
    mean: str | None,
    std: str | None,
    input_size: int | None,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    compiled: bool | None,
    topk: int | None,
    tau: float | None,
    workers: int,
    render: "Render",
    cache: "NodeCache | None",
    worker_timeout_s: float,
    rank_timeout_s: float,
    claim: bool,
    lease_s: float,
    engine: str,
    actors: tuple[int, int],
    gpus_per_actor: float,
    shards: tuple[str, ...],
    ops: str | None,
    skip_bad: bool,
    allow_low_agreement: bool,
    only_estimate: bool,
) -> None:
    """Label the views that have no label yet. Run it again to go on; under torchrun every rank takes units."""
    _refuse_idle_options(engine, claim=claim, only_estimate=only_estimate)
    check_is_store(store_path)
    _check_is_model(teacher)

    from teacher_cache.store.places import open_moved
    from teacher_cache.teacher.settings import TeacherSettings, check_as_stored, check_settings

    store = open_moved(store_path, shards, ops=ops, writable=True, cache=cache)
    views = _view_range(store, view_range, loud=is_first_rank())
    settings = TeacherSettings(
        teacher,
        checkpoint,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        input_size=input_size,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        compile=compiled,
        topk=topk,
        tau=tau,
    )
    check_settings(settings, store.teacher, store.num_classes)
    check_as_stored(settings, store.teacher)

    # what needs torch, seconds to import, comes only now
    from teacher_cache.fill import FillOptions

    options = FillOptions(
        workers,
        skip_bad=skip_bad,
        allow_low_agreement=allow_low_agreement,
        render=render,
        worker_timeout_s=worker_timeout_s,
        rank_timeout_s=rank_timeout_s,
        claim=claim,
        lease_s=lease_s,
        cache=cache,
    )
    if engine == "ray":
        from teacher_cache.actors import ActorFill, ActorsWanted

        work = ActorFill(store_path, shards, ops, settings, options, views)
        _fill_by_actors(work, ActorsWanted(*actors, gpus=gpus_per_actor))
        return
    opened = _open_teacher(settings, store)
    if only_estimate:
        _estimate(store, opened, options)
    else:
        _fill(store, opened, options, views)


@main.command()
@click.argument("name", required=False)
@set_option("Show it with a setting overridden: size=32.")
def policies(name: str | None, overrides: tuple[str, ...]) -> None:
    """List the shipped policies; with NAME print every setting of one (or of a TOML file), as a file."""
    from teacher_cache.replay.policy import describe_policy, load_policy, shipped_policies

    if name is not None:
        say_lines(describe_policy(load_policy(name, overrides)))
        return
    for each in shipped_policies():
        policy = load_policy(each)
        say(f"{each:<10}{policy.size[0]} x {policy.size[1]}")


@main.command()
@store_argument
@click.option(
    "--views",
    required=True,
    type=Whole(1),
    metavar=COUNT,
    help="How many views the store shall have in all, rounded up to whole groups.",
)
def extend(store_path: str, views: int) -> None:
    """Add groups of views to a store; nothing that is there is touched."""
    check_is_store(store_path)

    from teacher_cache.store.store import Store

    store = Store.open(store_path, writable=True)
    before = store.views
    store.extend(views)
    if store.views == before:
        say(
            f"{store_path} has {counted(before, 'view')} already: nothing is added; `teacher-cache status` "
            "says what is labelled"
        )
        return
    _say_rounded(views, store.views, store.group)
    say(
        f"{store_path}: {before} -> {counted(store.views, 'view')}; "
        f"`teacher-cache fill {as_place(store_path)}` labels them"
    )


@main.command()
@store_argument
@json_option
def status(store_path: str, as_json: bool) -> None:
    """Coverage, agreement, size, teacher, policy and libraries of a store."""
    check_is_store(store_path)

    from teacher_cache.status_text import print_status
    from teacher_cache.store.status import status as status_of
    from teacher_cache.store.store import Store

    found = status_of(Store.open(store_path))
    if as_json:
        say_json(found)
    else:
        print_status(found)


@main.command()
@store_argument
@click.option(
    "--fraction",
    default=0.01,
    type=FiniteRange(0, 1),
    metavar="SHARE",
    help="Share of blocks to render again; 0: none, records alone.",
)
@click.option("--seed", default=0, type=Whole(0, LARGEST_SEED), metavar=NUMBER, help="Which blocks.")
@teacher_options(
    "Label again too, with this teacher: as for `fill`.  [default: nothing is labelled]",
    "The teacher's weights; alone, for the teacher that the store names.  [default: timm's own]",
)
@device_option
@click.option(
    "--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the teacher's arithmetic.  [default: the store's]"
)
@workers_option
@render_option
@cache_options
@worker_timeout_option
@shards_option
@ops_option
def verify(
    store_path: str,
    fraction: float,
    seed: int,
    teacher: str | None,
    checkpoint: str | None,
    device: str | None,
    dtype: str | None,
    workers: int,
    render: "Render",
    cache: "NodeCache | None",
    worker_timeout_s: float,
    shards: tuple[str, ...],
    ops: str | None,
) -> None:
    """Check every record; render, and with --teacher label, a random fraction again. Exits with 1 on a difference."""
    check_is_store(store_path)
    _check_is_model(teacher)

    from teacher_cache.store.places import open_moved
    from teacher_cache.store.status import check_committed
    from teacher_cache.teacher.settings import TeacherSettings, check_settings
    from teacher_cache.verify import stored_teacher

    relabels = teacher is not None or checkpoint is not None
    if dtype is not None and not relabels:
        raise click.UsageError("--dtype is the teacher's, and none is asked: add --teacher NAME, or leave it out")
    if relabels and not fraction:
        raise click.UsageError("--fraction 0 renders nothing that a teacher could label: leave one of them out")
    store = open_moved(store_path, shards, ops=ops, cache=cache)
    check_committed(store)
    opened = None
    if relabels:
        settings = TeacherSettings(teacher, checkpoint, device=device, dtype=dtype)
        check_settings(settings, stored_teacher(store), store.num_classes)
        opened = _open_teacher(settings, store)
    report = _verify(
        store,
        fraction,
        seed=seed,
        teacher=opened,
        workers=workers,
        worker_timeout_s=worker_timeout_s,
        render=render,
        device=device,
        cache=cache,
    )
    _print_verified(report, labelled=relabels)
    if not report.exact:
        sys.exit(1)


@main.command()
@click.argument("store_path", type=NamedPlace(), metavar="STORE")
@click.argument("target", type=NamedPlace())
@endpoint_option
@click.option("--partial", is_flag=True, help="Publish what is labelled of a store that is not filled.")
@click.option("--licence", metavar="NAME", help="Under which it is published: cc-by-4.0.  [default: none is stated]")
def publish(store_path: str, target: str, partial: bool, licence: str | None) -> None:
    """Pack a store into a few files, with a card and hashes, at TARGET: a folder, a bucket, hf://datasets/OWNER/NAME."""
    check_is_store(store_path)

    from teacher_cache.publish import publish as publish_store
    from teacher_cache.store.store import Store

    store = Store.open(store_path)
    with _bar("units", "checking") as progress:
        done = publish_store(store, target, partial=partial, licence=licence, on_progress=progress)
    say(
        f"{target}: {counted(done.files, 'file')}, {counted(done.num_bytes, 'byte')}, instead of "
        f"{done.files_before:,} of {done.bytes_before:,}; its store, read as any other, is {target.rstrip('/')}/store"
    )


@main.command()
@click.argument("packed", type=NamedPlace())
@click.argument("folder", type=NamedPlace())
@endpoint_option
def unpack(packed: str, folder: str) -> None:
    """Make the store that was published at PACKED in FOLDER, to fill it on; its shards' places are given anew."""
    from teacher_cache.publish import unpack as unpack_store

    with _bar("files", "unpacking") as progress:
        store = unpack_store(packed, folder, on_progress=progress)
    samples = counted(store.layout.num_samples, "sample")
    say(f"{folder}: {counted(store.views, 'view')} of {samples}, checked by its hashes")


# Steps of `index`


def _index_again(
    store: "Store",
    request: "IndexRequest",
    shards: tuple[str, ...],
    *,
    other: "Store | None",
    classes_file: str | None,
    workers: int,
) -> None:
    """What `index` does where the store is there."""
    from teacher_cache.shards.check import check_shards
    from teacher_cache.shards.classes import class_rule
    from teacher_cache.shards.find import expand_shards
    from teacher_cache.store.reindex import are_in_place, check_request, check_same_index, widen
    from teacher_cache.store.store import Store

    check_request(store, request)
    if other is not None:
        check_same_index(store, other)
    else:
        paths = expand_shards(shards)
        rule = class_rule(paths, store.index.class_from, classes_file)
        if not are_in_place(store.index, paths, rule):
            writable = Store.open(store.path, writable=True)  # or refused, before shards are walked
            with _bar("shards", "comparing", len(paths)) as progress:
                moved = check_shards(store.index, paths, rule, workers=workers, progress=progress)
            writable.move(moved)
            say(f"{store.path}: its shards are those given, and are read from there from now on")
    say(f"{store.path}: {widen(store, request)}")


def _walk(
    patterns: tuple[str, ...], store_path: str, request: "IndexRequest", *, classes_file: str | None, workers: int
) -> "Index":
    """Index the shards; what an interrupted walk has finished waits beside the store."""
    from teacher_cache.shards.class_order import class_order_warning
    from teacher_cache.shards.classes import class_rule
    from teacher_cache.shards.find import expand_shards
    from teacher_cache.shards.indexing import index_shards

    paths = expand_shards(patterns)
    rule = class_rule(paths, request.class_from or "cls", classes_file, request.image_from)
    with _bar("shards", "indexing", len(paths)) as progress:
        found = index_shards(
            paths,
            rule,
            whole=request.whole,
            workers=workers,
            scratch=_scratch(store_path),
            note=say,
            progress=progress,
        )
    if warning := class_order_warning(found):
        warn(warning)
    return found


def _scratch(store_path: str) -> Path:
    """Where what is walked waits: beside the store, or where this user's caches are."""
    place = to_place(store_path)
    if isinstance(place, Path):
        return place.with_name(f"{place.name}.walk")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "teacher-cache" / f"{re.sub(r'[^A-Za-z0-9]+', '-', place)}.walk"


def _say_created(path: str, store: "Store", views: int) -> None:
    """What a new store is, after so many views were asked for."""
    _say_rounded(views, store.views, store.group)
    found, policy = store.index, store.policy
    say(
        f"{path}: {counted(found.num_samples, 'sample')} in {counted(found.num_shards, 'shard')}, "
        f"{counted(store.num_classes, 'class')}, "
        f"{counted(store.views, 'view')} under policy {policy.name} at {policy.size[0]} x {policy.size[1]}"
    )


def _say_rounded(asked: int, views: int, group: int) -> None:
    if asked != views:
        warn(f"{counted(asked, 'view')} rounded up to {views}, a multiple of the group of {group}")


# Steps of `fill` and `verify`


def _refuse_idle_options(engine: str, *, claim: bool, only_estimate: bool) -> None:
    """UsageError for an option of `fill` that is given, and would do nothing beside the others."""
    context = click.get_current_context()

    def is_given(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    if only_estimate:
        for name, option in (("engine", "--engine ray"), ("view_range", "--views"), ("claim", "--claim")):
            if is_given(name) and (name != "engine" or engine == "ray"):
                raise click.UsageError(f"--estimate times one unit, in this process alone: leave {option} out")
    for name, option in (("actors", "--actors"), ("gpus_per_actor", "--gpus-per-actor")):
        if is_given(name) and engine != "ray":
            raise click.UsageError(f"{option} is of Ray's actors: add --engine ray, or leave it out")
    alone = engine == "here" and not claim and os.environ.get("WORLD_SIZE", "1") == "1"
    if is_given("lease_s") and (alone or only_estimate):
        raise click.UsageError("--lease is of workers that share units: add --claim, or leave it out")


def _check_is_model(teacher: str | None) -> None:
    """Refuse a name that is no model's before the store is opened, which takes longer than to say so."""
    if teacher is None:
        return
    from teacher_cache.teacher.timm_names import no_teacher

    if found := no_teacher(teacher):
        raise TeacherError(found)


def _open_teacher(settings: "TeacherSettings", store: "Store") -> "Teacher":
    """The teacher of these settings for a store's views; the first rank says what there is to note."""
    from teacher_cache.teacher.teacher import open_teacher

    speaks = is_first_rank()
    return open_teacher(
        settings,
        num_classes=store.num_classes,
        view_size=store.policy.size,
        stored=store.teacher,
        note=lambda message: say_aside(message) if speaks else None,
    )


def _estimate(store: "Store", teacher: "Teacher", options: "FillOptions") -> None:
    from teacher_cache.estimate import estimate

    if is_first_rank():
        say_lines(estimate(store, teacher, options))


def _fill(store: "Store", teacher: "Teacher", options: "FillOptions", views: range) -> None:
    """This rank's part of a fill, with a bar; the first rank says what came of it."""
    from teacher_cache.fill import fill as fill_store
    from teacher_cache.progress import filling_bar
    from teacher_cache.status_text import print_filled
    from teacher_cache.store.status import status as status_of

    speaks = is_first_rank()
    with filling_bar(speaks) as (on_start, on_progress), stopping(INTERRUPTED):
        filled = fill_store(
            store, teacher, options, views, on_start=on_start, on_progress=on_progress, warn=warn, say=say_aside
        )
    if speaks:
        print_filled(status_of(store), filled)


def _fill_by_actors(work: "ActorFill", wanted: "ActorsWanted") -> None:
    """A fill by Ray's actors, with the same bar and the same last line."""
    from teacher_cache.actors import fill_by_actors
    from teacher_cache.progress import filling_bar
    from teacher_cache.status_text import print_filled
    from teacher_cache.store.status import status as status_of
    from teacher_cache.store.store import Store

    with filling_bar(True) as (on_start, on_progress), stopping(INTERRUPTED):
        filled = fill_by_actors(work, wanted, on_start=on_start, on_progress=on_progress)
    print_filled(status_of(Store.open(work.store)), filled)


def _verify(store: "Store", fraction: float, **how: Any) -> "VerifyReport":
    """`verify.verify` with a bar."""
    from teacher_cache.verify import verify as verify_store

    with _bar("views", "replaying") as progress:
        return verify_store(store, fraction, say=say_aside, on_progress=progress, **how)


def _print_verified(report: "VerifyReport", *, labelled: bool) -> None:
    for difference in report.differences[:20]:
        say(difference, err=True)
    if report.foreign_labels:
        margins = sorted(report.foreign_labels)
        say(
            f"{len(margins):,} of {counted(report.labels, 'label')} differ on this device or dtype; their top-2 "
            f"margins: median {margins[len(margins) // 2]:.3g}, largest {margins[-1]:.3g} (logits)"
        )
    relabelled = f", {counted(report.labels, 'label')}" if labelled else ""
    say(
        f"{counted(report.units, 'record')}, {counted(report.block_views, '(block, view)')} of "
        f"{counted(report.shards, 'shard')} and {counted(report.groups, 'group')}{relabelled} checked: "
        f"{counted(len(report.differences), 'difference')}"
    )


@contextmanager
def _bar(what: str, doing: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts `what`: (done, total) to call."""
    from teacher_cache.progress import counting_bar

    with counting_bar(what) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _view_range(store: "Store", text: str | None, *, loud: bool) -> range:
    """A:B rounded out to whole groups."""
    if text is None:
        return range(store.views)
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not A:B, two numbers", param_hint="--views") from None
    if not 0 <= first < last <= store.views:
        advice = "`teacher-cache extend` adds views" if last > store.views else "A is 0 or more, and below B"
        raise click.BadParameter(f"{text} is not inside 0:{store.views}; {advice}", param_hint="--views")
    rounded = store.layout.whole_groups(range(first, last))
    if loud and (rounded.start, rounded.stop) != (first, last):
        warn(f"views {text} rounded out to {rounded.start}:{rounded.stop}: groups of {store.group} are filled together")
    return rounded


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not three numbers R,G,B", param_hint=option) from None


if __name__ == "__main__":
    main()
