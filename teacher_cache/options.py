"""Parameters of the command line that several commands have, and their old spellings."""

import math
import os
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from teacher_cache.messages.shown import shown
from teacher_cache.processes.timeouts import RANK_TIMEOUT_S, TIMEOUT_S
from teacher_cache.rendering.choice import RENDER_DEFAULT
from teacher_cache.storage.place import ENDPOINTS, Url, is_endpoint, to_place, use_endpoint
from teacher_cache.terminal import warn

if TYPE_CHECKING:
    from teacher_cache.storage.cache import NodeCache

Command = Callable[..., Any]


class Whole(click.IntRange):
    """Whole numbers from the least on; one beyond any use is a slip, refused before memory is taken for it."""

    def __init__(self, least: int, largest: int = 2**31 - 1) -> None:
        super().__init__(least)
        self.largest = largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if number > self.largest:
            self.fail(f"{shown(str(value))} is more than {self.largest:,}, the most that is taken", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """Numbers of a range; nan, which click lets into any, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


class Seconds(click.IntRange):
    """Whole seconds of a range, as 120 or 120s."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text: Any = value.removesuffix("s") if isinstance(value, str) else value
        return int(super().convert(text, param, ctx))


class ActorCount(click.ParamType):
    """LEAST:MOST, or one number for both."""

    name = "actors"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", str(value))
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= least <= most:
            self.fail(f"{shown(str(value))} is not LEAST:MOST, numbers from 1 to 999,999: 1:64", param, ctx)
        return least, most


class ByteCount(click.ParamType):
    """Bytes, as 5000000, or as 200G, 1.5T: by powers of 1000."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,18}|\d{0,18}\.\d{1,18})([KMGTP]?)B?", str(value).upper())
        num_bytes = int(float(match[1]) * 1000 ** ("", *"KMGTP").index(match[2])) if match else 0
        if not 0 < num_bytes < 2**63:
            self.fail(f"{shown(str(value))} is no number of bytes: 200G, 1.5T, 5000000", param, ctx)
        return num_bytes


class Folder(click.Path):
    """A folder that is named: an empty name, as of a variable that is not set, would be the one that one is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx) if value != "" else self.fail("it is empty", param, ctx)


class NamedPlace(click.ParamType):
    """A path or URL that is named, as a folder is; what is there its command looks at."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value) if value != "" else self.fail("it is empty", param, ctx)


# Old spellings, for one release


class OldSpelling(click.Option):
    """A hidden option whose value is another parameter's: a `RenamedParameter` takes it from here."""

    def __init__(self, param_decls: list[str], **attributes: Any) -> None:
        super().__init__(param_decls, hidden=True, expose_value=False, **attributes)


class RenamedParameter(click.Parameter):
    """A parameter that an option of another name gives too, with one line on standard error that says what is written
    now.

    old is that option's name in Python. Where both are given it is a UsageError, but for an option that means
    something else beside this parameter.
    """

    def __init__(self, *args: Any, old: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.old = old

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        new, old = opts.get(self.name), opts.get(self.old)
        if not isinstance(old, str):
            return super().consume_value(ctx, opts)
        (other,) = (param for param in ctx.command.params if param.name == self.old)
        if not isinstance(new, str):
            _say_deprecated(ctx, other, self)
            return super().consume_value(ctx, {**opts, self.name: old})
        if isinstance(other, OldSpelling):
            called = self.make_metavar(ctx) if isinstance(self, click.Argument) else self.opts[0]
            raise click.UsageError(
                f"{called} is given twice, {new} and {other.opts[0]} {old}: leave {other.opts[0]} out", ctx
            )
        return super().consume_value(ctx, opts)


class RenamedArgument(RenamedParameter, click.Argument):
    pass


class TeacherWeights(RenamedParameter, click.Option):
    """The teacher's checkpoint. In a command on a trained model that is not named as its argument, --checkpoint is the
    old spelling of that one, and not this."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        models = [
            param.name for param in ctx.command.params if isinstance(param, RenamedParameter) and param.old == self.name
        ]
        if any(not isinstance(opts.get(name), str) for name in models):
            opts = {name: value for name, value in opts.items() if name != self.name}
        return super().consume_value(ctx, opts)


def _name(param: click.Parameter, ctx: click.Context) -> str:
    return param.make_metavar(ctx) if isinstance(param, click.Argument) else param.opts[0]


def _say_deprecated(ctx: click.Context, old: click.Parameter, new: click.Parameter) -> None:
    """One line a job, and none while a shell asks what could follow."""
    if ctx.resilient_parsing or os.environ.get("RANK", "0") != "0":
        return
    if isinstance(new, click.Argument):
        words = [_name(param, ctx) for param in ctx.command.params if isinstance(param, click.Argument)]
    else:
        words = [_name(new, ctx), new.make_metavar(ctx)]
    written = " ".join([ctx.command_path, *words])
    warn(f"{_name(old, ctx)} is deprecated, the next release does not take it: write `{written}`")


def endpoint_option(command: Command) -> Command:
    """--endpoint, which is in force before any other parameter is looked at."""

    @wraps(command)
    def with_endpoint(*args: Any, **settings: Any) -> Any:
        ctx = click.get_current_context()
        if ctx.get_parameter_source("endpoint") is ParameterSource.COMMANDLINE:
            _check_endpoint_is_used(ctx)
        return command(*args, **settings)

    return click.option(
        "--endpoint",
        metavar="URL",
        expose_value=False,
        is_eager=True,
        callback=_use_endpoint,
        help="The server that s3:// means: MinIO, R2 ...  [default: AWS_ENDPOINT_URL, else Amazon's]",
    )(with_endpoint)


def _use_endpoint(ctx: click.Context, param: click.Parameter, endpoint: str | None) -> None:
    if ctx.resilient_parsing:
        return
    if endpoint is not None and not is_endpoint(endpoint):
        raise click.BadParameter("it is no URL of a server: give http(s)://HOST, without user and query", ctx, param)
    use_endpoint(endpoint)
    ctx.call_on_close(lambda: use_endpoint(None))


def _check_endpoint_is_used(ctx: click.Context) -> None:
    """UsageError where what is named lies on Azure or Google alone: it would be looked for there, and not at the
    endpoint."""
    from teacher_cache.storage.objects import KINDS

    values = [value for each in ctx.params.values() for value in (each if isinstance(each, tuple) else (each,))]
    places = [to_place(value) for value in values if isinstance(value, str)]
    kinds = {KINDS.get(place.scheme): place.scheme for place in places if isinstance(place, Url)}
    for kind in () if "S3" in kinds else ("Azure", "GCS"):
        if kind in kinds:
            raise click.UsageError(
                f"--endpoint is of s3:// alone: that of {kinds[kind]}:// is {ENDPOINTS[kind][0]}; for shards on s3:// "
                "that a store names set AWS_ENDPOINT_URL",
                ctx,
            )


def _store_argument(metavar: str, *, required: bool) -> Callable[[Command], Command]:
    """The store, as `store_path`, and --endpoint, where it may be; before this release it was --store."""

    def add(command: Command) -> Command:
        command = endpoint_option(click.option("--store", "old_store", cls=OldSpelling)(command))
        named = {"metavar": metavar, "required": required, "type": NamedPlace()}
        return click.argument("store_path", cls=RenamedArgument, old="old_store", **named)(command)

    return add


store_argument = _store_argument("STORE", required=True)
optional_store_argument = _store_argument("[STORE]", required=False)


def model_argument(command: Command) -> Command:
    """MODEL, a trained one, as `trained_model`; before this release it was --checkpoint.

    Stands above `teacher_options`, or above `old_model_option` where the command knows no teacher.
    """
    return click.argument("trained_model", metavar="MODEL", type=NamedPlace(), cls=RenamedArgument, old="checkpoint")(
        command
    )


old_model_option = click.option("--checkpoint", "checkpoint", cls=OldSpelling)


def teacher_options(what: str, weights: str) -> Callable[[Command], Command]:
    """--teacher and --checkpoint, its weights, as `teacher` and `checkpoint`; with what they are for."""

    def add(command: Command) -> Command:
        command = click.option("--teacher-checkpoint", "old_checkpoint", cls=OldSpelling)(command)
        command = click.option("--checkpoint", metavar="FILE", cls=TeacherWeights, old="old_checkpoint", help=weights)(
            command
        )
        return click.option("--teacher", metavar="NAME", help=what)(command)

    return add


# Options that mean the same wherever they stand

COUNT, NUMBER, SECONDS = "COUNT", "NUMBER", "SECONDS"  # what stands after an option, in help
A_WEEK_S = 7 * 24 * 3600
MOST_WORKERS = 4096  # processes of one command
MOST_BATCH = 1 << 24  # views, as a store's teacher may say
LARGEST_SEED = 2**63 - 1


def timeout_option(name: str, default_s: float, what: str) -> Callable[[Command], Command]:
    """--NAME SECONDS, as `NAME_s`."""
    return click.option(
        f"--{name}",
        f"{name.replace('-', '_')}_s",
        default=int(default_s),
        show_default=True,
        type=Seconds(1, A_WEEK_S),
        metavar=SECONDS,
        help=what,
    )


worker_timeout_option = timeout_option(
    "worker-timeout", TIMEOUT_S, "A rendering process that gives no picture for so many seconds is taken to hang."
)
rank_timeout_option = timeout_option(
    "rank-timeout",
    RANK_TIMEOUT_S,
    "Under torchrun: without a sign of the other ranks for so many seconds, one of them is taken to hang.",
)
device_option = click.option(
    "--device",
    metavar="DEVICE",
    help="cpu, cuda (under torchrun each rank's own), or cuda:N.  [default: a GPU if there is one]",
)
workers_option = click.option(
    "--workers",
    default=2,
    show_default=True,
    type=Whole(0, MOST_WORKERS),
    metavar=COUNT,
    help="Rendering processes for each rank; 0: the rank renders itself.",
)
render_option = click.option(
    "--render",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default=RENDER_DEFAULT,
    show_default=True,
    help="Where views are rendered; auto: on a GPU if there is one. The pixels are the same.",
)
replay_option = click.option(
    "--render",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Where views are rendered; auto: on a GPU if there is one. For a few views that is not worth its start.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
shards_option = click.option(
    "--shards",
    multiple=True,
    metavar="PATTERN",
    help="Where the indexed shards are now. May be repeated.  [default: where the store says]",
)
ops_option = click.option(
    "--ops", metavar="FILE.py:FUNCTION", help="The own operations of the store's policy.  [default: it has none]"
)


def cache_options(command: Command) -> Command:
    """--cache DIR and --cache-bytes N, as `cache`, whose folder is made; None where neither is given."""

    @wraps(command)
    def with_cache(*args: Any, cache_folder: str | None, cache_bytes: int | None, **settings: Any) -> Any:
        return command(*args, cache=_node_cache(cache_folder, cache_bytes), **settings)

    size = click.option(
        "--cache-bytes",
        type=ByteCount(),
        metavar="BYTES",
        help="How much --cache may hold, 200G for instance; what was used longest ago goes.  [default: no --cache]",
    )
    return click.option(
        "--cache",
        "cache_folder",
        type=Folder(readable=False),
        metavar="FOLDER",
        help="Keep what is read of shards and published stores far away there, for all processes of this machine.  "
        "[default: keep nothing]",
    )(size(with_cache))


def _node_cache(folder: str | None, num_bytes: int | None) -> "NodeCache | None":
    if folder is None and num_bytes is None:
        return None
    if folder is None or num_bytes is None:
        raise click.UsageError("--cache FOLDER and --cache-bytes BYTES go together: give both, or neither")
    from teacher_cache.storage.cache import NodeCache
    from teacher_cache.store.presence import check_folder_outside

    check_folder_outside(Path(folder))
    cache = NodeCache(Path(folder), num_bytes)
    cache.prepare()
    return cache


def set_option(what: str) -> Callable[[Command], Command]:
    """--set KEY=VALUE, as `overrides`; may be repeated."""
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=f"{what} May be repeated.")
