"""One step in a process of its own, and what is kept of it: how long it took, over all attempts, and whether it ended.

A record is written anew every few seconds, so that a runner that is killed loses no more of the time than that.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from teacher_cache.files import replacing
from teacher_cache.processes.ties import die_with_parent
from teacher_cache.settings import read_json
from tools.evidence.errors import EvidenceError
from tools.evidence.steps import PROGRAMS, ROOT, Step

RECORDED_S = 5.0  # between two records of a step that runs
TAIL = 400  # characters of what a failed step said last


@dataclass(frozen=True)
class Record:
    """Of a step: wall_s and cpu_s over all attempts; cpu_s None once an attempt was lost with its runner; commit: of
    the code when it was begun; running: while an attempt goes on, or was lost."""

    command: str
    commit: str
    wall_s: float = 0.0
    cpu_s: float | None = 0.0
    done: bool = False
    running: bool = False


@dataclass(frozen=True)
class Places:
    """The user's folders, and what runs a module there with -m."""

    data: Path
    out: Path
    python: tuple[str, ...] = (sys.executable,)

    def fill_in(self, word: str) -> str:
        return word.replace("$DATA", str(self.data)).replace("$OUT", str(self.out))

    def record(self, step: str) -> Path:
        return self.out / "steps" / f"{step.replace('/', '.')}.json"

    def log(self, step: str) -> Path:
        return self.out / "logs" / f"{step.replace('/', '.')}.log"


def read_record(places: Places, step: Step) -> Record | None:
    """What is known of a step; None where it was never begun. EvidenceError where it was begun as another command."""
    path = places.record(step.name)
    if not path.exists():
        return None
    values = read_json(path, str(path), EvidenceError, "remove it, and the step is run again")
    try:
        record = Record(**values)
    except TypeError:
        raise EvidenceError(f"{path} is no record of a step: remove it, and the step is run again") from None
    if not step.is_done_by(record.command):
        raise EvidenceError(
            f"{path} is of `{record.command}`, now it is `{step.command}`: restore the settings, or give another --out"
        )
    return record


def write_record(places: Places, step: Step, record: Record) -> None:
    with replacing(places.record(step.name), durable=False) as aside:
        aside.write_text(json.dumps(asdict(record), indent=1) + "\n")


class Attempt:
    """A step that runs. Ask `poll` now and then: it keeps the record, and says when the step has ended."""

    def __init__(self, places: Places, step: Step, commit: str, threads: int | None) -> None:
        self.step = step
        self._places = places
        before = read_record(places, step) or Record(step.command, commit)
        self._before = replace(before, cpu_s=None) if before.running else before
        self._started = time.monotonic()
        self._recorded = self._started
        write_record(places, step, self._so_far())
        log = places.log(step.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._aside = places.out / f"{step.makes}.partial" if step.makes else None
        environment = dict(os.environ)
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
        with log.open("ab") as said:
            if self._aside is not None:
                self._aside.parent.mkdir(parents=True, exist_ok=True)
            with self._aside.open("wb") if self._aside is not None else log.open("ab") as answer:
                self._process = subprocess.Popen(
                    [*places.python, "-m", PROGRAMS[step.words[0]], *map(places.fill_in, [*step.words[1:], *step.how])],
                    stdin=subprocess.DEVNULL,
                    stdout=answer,
                    stderr=said,
                    env=environment,
                    cwd=ROOT,
                    start_new_session=True,  # Ctrl-C is the runner's, which passes it on once
                    preexec_fn=lambda: die_with_parent(signal.SIGKILL),  # the runner has no threads
                )

    def stop(self) -> None:
        """Ask it to stop; a training writes a checkpoint first."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def poll(self) -> int | None:
        """The exit code once it has ended, with its record written; None while it runs."""
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if not pid:
            if time.monotonic() - self._recorded > RECORDED_S:
                self._recorded = time.monotonic()
                write_record(self._places, self.step, self._so_far())
            return None
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        if code == 0 and self._aside is not None:
            with replacing(self._aside.with_suffix("")) as answer:
                answer.write_bytes(self._aside.read_bytes())
            self._aside.unlink()
        cpu_s = self._before.cpu_s
        spent = None if cpu_s is None else round(cpu_s + usage.ru_utime + usage.ru_stime, 2)
        write_record(self._places, self.step, replace(self._so_far(), running=False, done=code == 0, cpu_s=spent))
        return code

    def said_last(self) -> str:
        """The end of what it said, one line."""
        lines = self._places.log(self.step.name).read_text(errors="replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[-TAIL:]

    def _so_far(self) -> Record:
        """The record of an attempt that goes on."""
        wall_s = self._before.wall_s + time.monotonic() - self._started
        return replace(self._before, running=True, wall_s=round(wall_s, 2))
