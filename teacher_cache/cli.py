"""`teacher-cache index | fill | extend | status | verify | policies`."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teacher_cache.errors import StoreError, TeacherCacheError
from teacher_cache.files import describe_os_error
from teacher_cache.messages.shown import MESSAGE, counted, listed, shown
from teacher_cache.options import (
    COUNT,
    NUMBER,
    FiniteRange,
    device_option,
    json_option,
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
from teacher_cache.terminal import line, say, say_json, say_lines, table, terminal, warn
from teacher_cache.threads import wait_asleep
from teacher_cache.ties import is_first_rank

if TYPE_CHECKING:
    from teacher_cache.rendering import Render

_EXTRA = re.compile(r"(Got unexpected extra arguments) \((.*)\)", re.DOTALL)
INTERRUPTED = 130  # exit code after Ctrl-C or SIGTERM, as shells have it


class OneLineErrors(click.Group):
    """A group whose commands end as `one_line_errors` says."""

    def invoke(self, context: click.Context) -> Any:
        with one_line_errors():
            return super().invoke(context)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Report errors as one line and exit with 1: ours, and those of the system wherever they come from. After Ctrl-C
    exit with 130; and without a word where nobody reads on (`... | head`)."""
    try:
        yield
    except TeacherCacheError as error:
        say(f"error: {error}", err=True)
    except click.UsageError as error:
        if extra := _EXTRA.fullmatch(error.message):
            raise click.UsageError(_few_extra(extra), error.ctx) from None
        raise
    except OSError as error:
        if not _is_of_printing(error):
            say(f"error: {describe_os_error(error)}", err=True)
        elif not isinstance(error, BrokenPipeError):
            say(f"error: standard output cannot be written ({error.strerror}): send it elsewhere", err=True)
    except KeyboardInterrupt:
        say("stopped", err=True)
        sys.exit(INTERRUPTED)
    else:
        return
    sys.exit(1)


def _few_extra(found: re.Match[str]) -> str:
    """Of the arguments that a command takes no more of the first three: a shell that expands a pattern gives many."""
    return f"{found[1]} ({listed(found[2].split())}): a pattern of an option goes in quotes, --shards 'train-*.tar'"


def _is_of_printing(error: OSError) -> bool:
    """Whether what is printed could not be written; what waits is dropped then, lest Python complain of it as it ends.

    The system's error does not say of which stream it is, but only what prints calls a stream's own methods.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_globals["__name__"].partition(".")[0] not in ("click", "rich"):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


@click.group(cls=OneLineErrors, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Label every augmented view with a convnet teacher once, in a store that any number of students train from."""
    wait_asleep()


@main.command()
@click.argument("shards", nargs=-1)
@click.option("--store", "store_path", required=True, metavar="STORE", help="Folder of the new store.")
@click.option(
    "--policy",
    metavar="NAME",
    help="Augmentation: deit, transfer, cifar, digits, none, or a TOML file.  [default: that of --like]",
)
@set_option("Override a policy setting: size=32.")
@click.option("--ops", metavar="FILE.py:FUNCTION", help="RandAugment operations of your own, by name.  [default: none]")
@click.option(
    "--views",
    type=click.IntRange(1),
    metavar=COUNT,
    help="How many augmented views a sample has, rounded up to whole groups.  [default: --like's]",
)
@click.option("--seed", type=click.IntRange(0), metavar=NUMBER, help="Of all that is drawn.  [default: 0, or --like's]")
@click.option(
    "--group",
    type=click.IntRange(1),
    metavar=COUNT,
    help="How many views are filled together.  [default: 16 or all views if fewer, or --like's]",
)
@click.option(
    "--unit-samples",
    type=click.IntRange(64),
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
    metavar="STORE",
    help="Take index, policy, seed and groups from this store, reading no shard.  [default: shards are read]",
)
@click.option(
    "--devices", type=click.Choice(["one", "any"]), help="May fills use other devices than the first?  [default: one]"
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    metavar=COUNT,
    help="Height x width, in pixels, of the largest image that is decoded.  [default: 178956970, or --like's]",
)
@click.option("--workers", default=4, type=click.IntRange(1), metavar=COUNT, help="Processes that walk shards.")
def index(
    shards: tuple[str, ...],
    store_path: str,
    policy: str | None,
    overrides: tuple[str, ...],
    ops: str | None,
    views: int | None,
    seed: int | None,
    group: int | None,
    unit_samples: int | None,
    class_from: str | None,
    image_from: str | None,
    classes_file: str | None,
    whole: bool,
    like: str | None,
    devices: str | None,
    max_pixels: int | None,
    workers: int,
) -> None:
    """Index WebDataset SHARDS (paths, globs, brace patterns) into a new store, with its policy and seed frozen.

    A store that is there is compared with what is asked: views that it lacks are added, shards that have moved are
    noted, other settings are refused by name.
    """
    from teacher_cache.files import check_local
    from teacher_cache.replay.header import MAX_PIXELS
    from teacher_cache.replay.operations import open_operations
    from teacher_cache.replay.policy import change_policy, load_policy
    from teacher_cache.shards.class_order import class_order_warning
    from teacher_cache.store.reindex import Asked
    from teacher_cache.store.store import Store

    if bool(shards) == bool(like):
        raise click.UsageError("give either SHARDS or --like OTHER_STORE")
    check_local(store_path)
    there = Store.open(store_path) if os.path.lexists(store_path) else None
    other = Store.open(like) if like else None
    base = other or there  # its settings count where none are given
    if policy is None and base is None:
        raise click.UsageError("name a --policy: deit, transfer, cifar, digits, none or a TOML file")
    if views is None and base is None:
        raise click.UsageError("say how many --views a sample shall have")
    operations = open_operations(ops) if ops is not None else None
    if policy is None:
        assert base is not None
        chosen = change_policy(base.policy, overrides, operations, f"the policy of {base.path}")
    else:
        chosen = load_policy(policy, overrides, operations)
    if there is not None:
        asked = Asked(
            chosen,
            views=views,
            seed=seed,
            group=group,
            unit_samples=unit_samples,
            class_from=class_from,
            image_from=image_from,
            whole=whole,
            devices=devices,
            max_pixels=max_pixels,
        )
        _index_again(there, asked, shards, other=other, classes_file=classes_file, workers=workers)
        return
    if other is not None:
        if seed is not None and seed != other.seed:
            raise StoreError(f"{like} has seed {other.seed}, --seed says {seed}: leave --seed out, or index shards")
        _refuse_other_reading(other, class_from, image_from, classes_file)
        if whole and other.index.fingerprint != "whole":
            raise StoreError(f"{like} has fingerprints of images' tails: leave --whole out, or index shards")
        found, seed, group = other.index, other.seed, group or other.group
        views, unit_samples = views or other.views, unit_samples or other.unit_samples
        max_pixels = max_pixels or other.max_pixels
    else:
        found = _walk(
            shards,
            store_path,
            class_from=class_from or "cls",
            image_from=image_from,
            classes_file=classes_file,
            whole=whole,
            workers=workers,
        )
        if warning := class_order_warning(found):
            warn(warning)
    assert views is not None
    store = Store.create(
        store_path,
        found,
        chosen,
        views=views,
        seed=seed or 0,
        group=group,
        unit_samples=unit_samples or 4096,
        any_device=devices == "any",
        max_pixels=max_pixels or MAX_PIXELS,
    )
    _say_rounded(views, store.views, store.group)
    say(
        f"{store_path}: {counted(found.num_samples, 'sample')} in {counted(found.num_shards, 'shard')}, "
        f"{counted(store.num_classes, 'class')}, "
        f"{counted(store.views, 'view')} under policy {chosen.name} at {chosen.size[0]} x {chosen.size[1]}"
    )


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
    type=click.IntRange(1),
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
    type=click.IntRange(1),
    metavar="VIEWS",
    help="The one batch shape, in views.  [default: 256 on CUDA, else 64]",
)
@click.option("--compile/--no-compile", "compiled", default=None, help="torch.compile the teacher.  [default: no]")
@click.option(
    "--topk",
    type=click.IntRange(0),
    metavar="K",
    help="Store the K largest probabilities of a view too.  [default: the store's, or 0]",
)
@click.option(
    "--tau", type=float, metavar="T", help="Temperature of these probabilities.  [default: the store's, or 1]"
)
@workers_option
@render_option
@worker_timeout_option
@rank_timeout_option
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
    worker_timeout_s: float,
    rank_timeout_s: float,
    shards: tuple[str, ...],
    ops: str | None,
    skip_bad: bool,
    allow_low_agreement: bool,
    only_estimate: bool,
) -> None:
    """Label the views that have no label yet. Run it again to go on; under torchrun every rank takes units."""
    from teacher_cache.progress import filling_bar
    from teacher_cache.store.places import open_moved
    from teacher_cache.teacher.settings import TeacherSettings, check_as_stored, check_settings

    store = open_moved(store_path, shards, ops=ops, writable=True)
    views = _view_range(store, view_range, loud=is_first_rank())
    settings = TeacherSettings(
        teacher,
        checkpoint,
        mean=_numbers(mean),
        std=_numbers(std),
        input_size=input_size,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        compile=compiled,
        topk=topk,
        tau=tau,
    )
    known = store.teacher
    check_settings(settings, known, store.num_classes)
    if known is not None:
        check_as_stored(settings, known)

    # what needs torch, seconds to import, comes only now
    from teacher_cache.fill import FillOptions, may_differ
    from teacher_cache.fill import fill as fill_store
    from teacher_cache.signals import Stopped
    from teacher_cache.teacher.identity import check_same_teacher
    from teacher_cache.teacher.teacher import open_teacher

    speaks = is_first_rank()
    opened = open_teacher(
        settings,
        num_classes=store.num_classes,
        view_size=store.policy.size,
        stored=store.teacher,
        note=lambda message: say(message, err=True) if speaks else None,
    )
    options = FillOptions(
        workers,
        skip_bad=skip_bad,
        allow_low_agreement=allow_low_agreement,
        render=render,
        worker_timeout_s=worker_timeout_s,
        rank_timeout_s=rank_timeout_s,
    )
    if only_estimate:
        from teacher_cache.estimate import estimate

        if store.teacher is not None:
            check_same_teacher(store.teacher, opened.identity, may_differ=may_differ(store))
        if speaks:
            say_lines(estimate(store, opened, options))
        return
    with filling_bar(speaks) as (on_start, on_progress):
        try:
            filled = fill_store(
                store, opened, options, views, on_start=on_start, on_progress=on_progress, warn=warn, say=_aside
            )
        except Stopped as stopped:
            say(str(stopped), err=True)
            sys.exit(INTERRUPTED)
    if speaks:
        _print_filled(store, filled)


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
    type=click.IntRange(1),
    metavar=COUNT,
    help="How many views the store shall have in all, rounded up to whole groups.",
)
def extend(store_path: str, views: int) -> None:
    """Add groups of views to a store; nothing that is there is touched."""
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
    say(f"{store_path}: {before} -> {counted(store.views, 'view')}; `teacher-cache fill {store_path}` labels them")


@main.command()
@store_argument
@json_option
def status(store_path: str, as_json: bool) -> None:
    """Coverage, agreement, size, teacher, policy and libraries of a store."""
    from teacher_cache.store.status import status as status_of
    from teacher_cache.store.store import Store

    found = status_of(Store.open(store_path))
    if as_json:
        say_json(found)
    else:
        _print_status(found)


@main.command()
@store_argument
@click.option(
    "--fraction",
    default=0.01,
    type=FiniteRange(0, 1),
    metavar="SHARE",
    help="Share of blocks to render again; 0: none, records alone.",
)
@click.option("--seed", default=0, type=click.IntRange(0), metavar=NUMBER, help="Which blocks.")
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
    worker_timeout_s: float,
    shards: tuple[str, ...],
    ops: str | None,
) -> None:
    """Check every record; render, and with --teacher label, a random fraction again. Exits with 1 on a difference."""
    from teacher_cache.progress import counting_bar
    from teacher_cache.store.places import open_moved
    from teacher_cache.store.status import check_committed
    from teacher_cache.teacher.settings import TeacherSettings, check_settings
    from teacher_cache.verify import verify as verify_store

    relabels = teacher is not None or checkpoint is not None
    if relabels and not fraction:
        raise click.UsageError("--fraction 0 renders nothing that a teacher could label: leave one of them out")
    store = open_moved(store_path, shards, ops=ops)
    check_committed(store)
    settings = TeacherSettings(teacher, checkpoint, device=device, dtype=dtype)
    if relabels:
        if store.teacher is None:
            raise StoreError(f"{store_path} names no teacher: its labels were not made by `teacher-cache fill`")
        check_settings(settings, store.teacher, store.num_classes)

    opened, same_kind = None, True
    if relabels:
        from teacher_cache.teacher.identity import check_same_teacher
        from teacher_cache.teacher.teacher import open_teacher

        assert store.teacher is not None
        opened = open_teacher(
            settings,
            num_classes=store.num_classes,
            view_size=store.policy.size,
            stored=store.teacher,
            note=lambda message: say(message, err=True),
        )
        same_kind = all(getattr(opened.identity, name) == getattr(store.teacher, name) for name in ("device", "dtype"))
        check_same_teacher(store.teacher, opened.identity, may_differ=("device", "dtype"))
    with counting_bar("views") as bar:
        task = bar.add_task("replaying", total=None)
        report = verify_store(
            store,
            fraction,
            seed=seed,
            teacher=opened,
            same_kind=same_kind,
            workers=workers,
            worker_timeout_s=worker_timeout_s,
            render=render,
            device=device,
            say=_aside,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for difference in report.differences[:20]:
        say(difference, err=True)
    if report.foreign_labels:
        margins = sorted(report.foreign_labels)
        say(
            f"{len(margins):,} of {counted(report.labels, 'label')} differ on this device or dtype; their top-2 "
            f"margins: median {margins[len(margins) // 2]:.3g}, largest {margins[-1]:.3g} (logits)"
        )
    relabelled = f", {counted(report.labels, 'label')}" if opened else ""
    say(
        f"{counted(report.units, 'record')}, {counted(report.block_views, '(block, view)')} of "
        f"{counted(report.shards, 'shard')} and {counted(report.groups, 'group')}{relabelled} checked: "
        f"{counted(len(report.differences), 'difference')}"
    )
    if not report.exact:
        sys.exit(1)


def _index_again(
    store: Any, asked: Any, shards: tuple[str, ...], *, other: Any, classes_file: str | None, workers: int
) -> None:
    """What `index` does where the store is there."""
    from teacher_cache.progress import counting_bar
    from teacher_cache.shards.check import check_shards
    from teacher_cache.shards.classes import class_rule
    from teacher_cache.shards.find import expand_shards
    from teacher_cache.store.reindex import are_in_place, check_asked, check_same_index, widen
    from teacher_cache.store.store import Store

    check_asked(store, asked)
    if other is not None:
        check_same_index(store, other)
    else:
        paths = expand_shards(shards)
        rule = class_rule(paths, store.index.class_from, classes_file)
        if not are_in_place(store.index, paths, rule):
            with counting_bar("shards") as bar:
                task = bar.add_task("comparing", total=len(paths))
                moved = check_shards(
                    store.index,
                    paths,
                    rule,
                    workers=min(workers, len(paths)),
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
            Store.open(store.path, writable=True).move(moved)
            say(f"{store.path}: its shards are those given, and are read from there from now on")
    say(f"{store.path}: {widen(store, asked)}")


def _walk(
    patterns: tuple[str, ...],
    store_path: str,
    *,
    class_from: str,
    image_from: str | None,
    classes_file: str | None,
    whole: bool,
    workers: int,
) -> Any:
    """Index the shards; what an interrupted walk has finished waits beside the store."""
    from teacher_cache.progress import counting_bar
    from teacher_cache.shards.classes import class_rule
    from teacher_cache.shards.find import expand_shards
    from teacher_cache.shards.indexing import index_shards

    paths = expand_shards(patterns)
    rule = class_rule(paths, class_from, classes_file, image_from)
    scratch = Path(f"{store_path.rstrip('/')}.walk")
    with counting_bar("shards") as bar:
        task = bar.add_task("indexing", total=len(paths))
        found = index_shards(
            paths,
            rule,
            whole=whole,
            workers=min(workers, len(paths)),
            scratch=scratch,
            note=say,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    shutil.rmtree(scratch, ignore_errors=True)
    return found


def _refuse_other_reading(other: Any, class_from: str | None, image_from: str | None, classes_file: str | None) -> None:
    """StoreError where options would read samples otherwise than the store of --like does."""
    from teacher_cache.shards.classes import read_class_names

    index = other.index
    asked = (
        ("--class-from", class_from, index.class_from),
        ("--image-from", image_from, index.image_from),
        ("--classes", classes_file and read_class_names(classes_file), other.class_names),
    )
    for option, given, held in asked:
        if given is not None and given != held:
            raise StoreError(f"{other.path} was indexed with another {option}: leave it out, or index shards")


def _aside(message: str) -> None:
    """A line beside what is asked for."""
    say(message, err=True)


def _view_range(store: Any, text: str | None, *, loud: bool) -> range:
    """A:B rounded out to whole groups."""
    if text is None:
        return range(store.views)
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not A:B, two numbers", param_hint="--views") from None
    if not 0 <= first < last <= store.views:
        raise click.BadParameter(
            f"{text} is not inside 0:{store.views}; `teacher-cache extend` adds views", param_hint="--views"
        )
    rounded: range = store.layout.whole_groups(range(first, last))
    if loud and (rounded.start, rounded.stop) != (first, last):
        warn(f"views {text} rounded out to {rounded.start}:{rounded.stop}: groups of {store.group} are filled together")
    return rounded


def _say_rounded(asked: int, views: int, group: int) -> None:
    if asked != views:
        warn(f"{counted(asked, 'view')} rounded up to {views}, a multiple of the group of {group}")


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not three numbers R,G,B") from None


def _print_filled(store: Any, filled: int) -> None:
    from teacher_cache.store.status import status as status_of

    found = status_of(store)
    say(
        f"{store.path}: {counted(filled, 'unit')} filled now; {found['labelled']:,} of "
        f"{counted(found['samples'] * found['views'], 'view')} labelled, {_size(found)}, {_agreement(found)}"
    )
    if found["skipped"]["samples"]:
        warn(f"{counted(found['skipped']['samples'], 'sample')} skipped: {_skipped(found)}")


def _size(found: dict[str, Any]) -> str:
    per_view = found["bytes"]["per_view"]
    return "no bytes yet" if per_view is None else f"{per_view:.2f} bytes a view"


def _soft(found: dict[str, Any]) -> str:
    if not found["topk"]:
        return "none"
    megabytes = sum(found["bytes"][name] for name in ("topk_classes", "topk_probabilities")) / 1e6
    return f"the {found['topk']} largest probabilities of a view at tau {found['tau']:g}, {megabytes:.2f} MB"


def _agreement(found: dict[str, Any]) -> str:
    if found["agreement"] is None:
        return "no labels yet"
    own, larger, either = (f"{100 * found['agreement'][name]:.1f} %" for name in ("own", "larger", "either"))
    return f"agreement with the ground truth {larger} (own class {own}, either of the pair {either})"


def _skipped(found: dict[str, Any]) -> str:
    first = [shown(f"{sample['shard']} {sample['key']}") for sample in found["skipped"]["first"][:20]]
    more = found["skipped"]["samples"] - len(first)
    return ", ".join(first) + (f" and {more} more (status --json lists 100)" if more else "")


def _teacher(identity: dict[str, Any] | None) -> str:
    if identity is None:
        return "none yet"
    return (
        f"{identity['name']}, weights {identity['weights_sha256'][:12]}, {identity['dtype']}, batches of "
        f"{identity['batch_size']} on {identity['device']}, torch {identity['torch']}"
    )


def _print_status(found: dict[str, Any]) -> None:
    from teacher_cache.store.proof import describe_build

    committed = f"{found['units_committed']:,} of {counted(found['units'], 'unit')}"
    rows = {
        "samples": f"{found['samples']:,} in {counted(found['shards'], 'shard')}, {counted(found['classes'], 'class')}",
        "views": f"{found['views']} in groups of {found['group']}, seed {found['seed']}",
        "coverage": f"{100 * found['coverage']['share']:.1f} % ({committed})",
        "agreement": _agreement(found),
        "size": _size(found),
        "soft labels": _soft(found),
        "teacher": _teacher(found["teacher"]),
        "filled with": "\n".join(f"{describe_build(build)}: logits: {build['logits']}" for build in found["builds"]),
        "policy": f"{found['policy']['name']} at {found['policy']['size'][0]} x {found['policy']['size'][1]}",
        "libraries": ", ".join(f"{name} {version}" for name, version in found["libraries"].items()),
    }  # fmt: skip
    if found["damaged"]:
        rows["damaged"] = (
            f"{counted(found['damaged'], 'view')} of images that a decoder warned of; their pixels are Pillow's"
        )
    if found["skipped"]["samples"]:
        rows["skipped"] = f"{counted(found['skipped']['samples'], 'sample')}: {_skipped(found)}"
    console = terminal()
    console.print(line(found["store"], "italic"), soft_wrap=True)
    limits = {"what": MESSAGE}
    console.print(table(("name", "what"), rows.items(), limits=limits, box=None, show_header=False))
    groups = [
        (f"{first}-{stop - 1}", f"{group['units_committed']}/{group['units']}", f"{group['share']:.1%}")
        for group in found["coverage"]["groups"]
        for first, stop in [group["views"]]
    ]
    headings = ("views", "units", "share")
    console.print(table(headings, groups, right=headings, box=None))


if __name__ == "__main__":
    main()
