"""`student` commands in forked processes, which can be killed: the imports, which take seconds, are made once.

As a program: reads {"words", "log", "environment"} a line as JSON, forks, and answers with the process's id, then, for
each line {"wait": id}, with its exit code.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Command:
    """A `student` command that has been started."""

    id: int
    log: Path
    _forks: "Forks"

    def running(self) -> bool:
        """Whether it has not ended: one that nobody has waited for is a zombie."""
        return Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def wait(self) -> int:
        """Its exit code, or minus the signal that killed it."""
        return int(self._forks._ask({"wait": self.id}))

    @property
    def output(self) -> str:
        return self.log.read_text()


class Forks:
    """Start commands, each with a log in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, words: list[str], environment: Mapping[str, str] | None = None) -> Command:
        self._started += 1
        log = self._folder / f"{self._started}.log"
        pid = self._ask({"words": words, "log": str(log), "environment": dict(environment or {})})
        return Command(int(pid), log, self)

    def start_ranks(self, words: list[str], world_size: int) -> list[Command]:
        """A process for each rank, as torchrun starts them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        job = {**place, "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
        return [self.start(words, {**job, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(world_size)]

    def _ask(self, question: Mapping[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


def answer(question: dict[str, Any]) -> int:
    if "wait" in question:
        return os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
    child = os.fork()
    if child:
        return child
    log = os.open(question["log"], os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(question["environment"])
    cli.main(question["words"])
    raise AssertionError("click exits")


if __name__ == "__main__":
    import student.train  # noqa: F401 - what the command would import
    from student import cli

    while line := sys.stdin.readline():
        print(answer(json.loads(line)), flush=True)
