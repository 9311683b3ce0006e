"""How commands end: errors as one line, and which exit code."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from teacher_cache.errors import TeacherCacheError
from teacher_cache.files import describe_os_error
from teacher_cache.messages.shown import MESSAGE, listed, shown
from teacher_cache.processes.memory import is_of_memory
from teacher_cache.terminal import open_streams, say

_EXTRA = re.compile(r"(Got unexpected extra arguments) \((.*)\)", re.DOTALL)
INTERRUPTED = 130  # exit code after Ctrl-C or SIGTERM, as shells have it


class OneLineErrors(click.Group):
    """A group whose commands end as `one_line_errors` says, and are listed with their first sentence, whole."""

    def invoke(self, context: click.Context) -> Any:
        # else pydantic looks for plug-ins in all that is installed: 20 ms of each process, and nobody has any here
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        open_streams()
        with one_line_errors():
            return super().invoke(context)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.commands[name].get_short_help_str(MESSAGE)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


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
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        said = shown(str(error).partition("\n")[0] or "no room is left", MESSAGE)
        say(f"error: memory is too small ({said}): lower the numbers given, or free memory", err=True)
    except KeyboardInterrupt:
        say("stopped", err=True)
        sys.exit(INTERRUPTED)
    else:
        return
    sys.exit(1)


@contextmanager
def stopping(code: int) -> Iterator[None]:
    """Around the last that a command does: after a signal that asked it to stop, say what is said of it, and exit with
    this code, however often it is asked."""
    from teacher_cache.processes.signals import Stopped, last_of_process

    try:
        with last_of_process():
            yield
    except Stopped as stopped:
        say(str(stopped), err=True)
        sys.exit(code)


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
