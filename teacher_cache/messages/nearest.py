"""'Did you mean ...?': the known names that are nearest to one that nobody knows."""

import difflib
from collections.abc import Iterable

from teacher_cache.messages.shown import shown

OFFERED = 3  # names, and the ratio from which one is alike: difflib's own, which click has for options and commands
ALIKE = 0.6


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to OFFERED known names, the most alike first. Of a dotted one its last part alone may be what was meant."""
    wanted = name.lower()
    matcher = difflib.SequenceMatcher(None, "", wanted)
    ratios: dict[str, float] = {}
    for each in known:
        forms = {each.lower(), *([each.lower().rpartition(".")[2]] if "." not in wanted else [])}
        ratios[each] = max(_ratio(matcher, form) for form in forms)
    return sorted((each for each in ratios if ratios[each] >= ALIKE), key=lambda each: -ratios[each])[:OFFERED]


def _ratio(matcher: "difflib.SequenceMatcher[str]", form: str) -> float:
    """How alike a form is to what the matcher is for; 0 below ALIKE, which bounds tell ten times faster."""
    matcher.set_seq1(form)
    if matcher.real_quick_ratio() < ALIKE or matcher.quick_ratio() < ALIKE:
        return 0
    return matcher.ratio()


def did_you_mean(name: str, known: Iterable[str], listing: str = "") -> str:
    """The end of a message about an unknown name: the nearest known ones, then where all of them are.

    listing: one clause, '`student recipes` lists all'.
    """
    close = [f"'{shown(each)}'" for each in nearest(name, known)]
    if not close:
        return listing or "check the name"
    asked = f"did you mean {', '.join(close[:-1])}{' or ' if close[1:] else ''}{close[-1]}?"
    return f"{asked} {listing}" if listing else asked
