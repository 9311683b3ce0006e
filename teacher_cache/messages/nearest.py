"""'Did you mean ...?': the known names that are nearest to one that nobody knows."""

import difflib
from collections.abc import Iterable

from teacher_cache.messages.shown import shown

OFFERED = 3  # names, and the ratio from which one is alike: difflib's own, which click has for options and commands
ALIKE = 0.6


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to OFFERED known names, the most alike first. Of a dotted one its last part alone may be what was meant."""
    wanted = name.lower()
    ratios: dict[str, float] = {}
    for each in known:
        forms = {each.lower(), *([each.lower().rpartition(".")[2]] if "." not in wanted else [])}
        ratios[each] = max(difflib.SequenceMatcher(None, form, wanted).ratio() for form in forms)
    return sorted((each for each in ratios if ratios[each] >= ALIKE), key=lambda each: -ratios[each])[:OFFERED]


def did_you_mean(name: str, known: Iterable[str], listing: str = "") -> str:
    """The end of a message about an unknown name: the nearest known ones, then where all of them are.

    listing: one clause, '`student recipes` lists all'.
    """
    close = [f"'{shown(each)}'" for each in nearest(name, known)]
    if not close:
        return listing or "check the name"
    asked = f"did you mean {', '.join(close[:-1])}{' or ' if close[1:] else ''}{close[-1]}?"
    return f"{asked} {listing}" if listing else asked
