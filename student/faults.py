"""What cannot be, told before it is tried: every fault with what mends it on the command line."""

from collections.abc import Iterable
from dataclasses import dataclass

from teacher_cache.errors import TeacherCacheError


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. mend: the option and its value that mend it, () where none does; advice: in words,
    if found does not say it."""

    error: type[TeacherCacheError]  # what is raised for it where it stands alone
    found: str
    mend: tuple[str, ...] = ()
    advice: str = ""

    def __str__(self) -> str:
        ways = ", or ".join(part for part in (" ".join(self.mend), self.advice) if part)
        return f"{self.found}: {ways}" if ways else self.found


def all_mends(faults: Iterable[Fault]) -> list[str]:
    """The options that mend the faults, each setting once: the last that is said of it."""
    mends = {(fault.mend[0], fault.mend[-1].partition("=")[0]): fault.mend for fault in faults if fault.mend}
    return [word for mend in mends.values() for word in mend]


def refuse(faults: Iterable[Fault]) -> None:
    """Raise the first fault's error, which tells of all; nothing where there is none."""
    found = list(faults)
    if found:
        raise found[0].error("; ".join(map(str, found)))
