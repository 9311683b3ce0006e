"""A store as one web page that opens from disk: charts, confusions, classes, and the samples that are worth a look."""

import base64
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from teacher_cache.audit import VIEWS_SAMPLED
from teacher_cache.audit.confusions import confusions, most_frequent
from teacher_cache.audit.disagreements import disagreements
from teacher_cache.audit.sample import describe_sample
from teacher_cache.audit.summary import summarise
from teacher_cache.audit.thumbnails import EXACT_SIDE, SIDE, add_pictures
from teacher_cache.audit.votes import LabelStatistics, OnProgress, read_statistics
from teacher_cache.errors import StoreError
from teacher_cache.files import check_local, replacing
from teacher_cache.messages.shown import MESSAGE, counted, shown
from teacher_cache.processes.timeouts import TIMEOUT_S
from teacher_cache.store.presence import check_outside
from teacher_cache.store.store import Store

MAX_MEGABYTES = 10.0
SAMPLES_SHOWN = 30  # of each kind
VIEWS_SHOWN = 16  # of each sample
PAIRS = 20_000  # confused pairs in the page: those of up to 141 classes whole
CLASSES = 2_000  # rows of its table of classes

KINDS = {"label_errors": "label error", "multi_label": "two labels", "unstable": "unstable"}

_PAGE = Path(__file__).parent / "page"


def write_report(
    store: Store,
    out: str | os.PathLike[str],
    *,
    max_megabytes: float = MAX_MEGABYTES,
    samples: int = SAMPLES_SHOWN,
    views: int = VIEWS_SHOWN,
    views_sampled: int = VIEWS_SAMPLED,
    seed: int = 0,
    workers: int | None = None,
    worker_timeout_s: float = TIMEOUT_S,
    on_labels: OnProgress | None = None,
    on_params: OnProgress | None = None,
    on_plans: OnProgress | None = None,
    on_pictures: OnProgress | None = None,
) -> dict[str, Any]:
    """Write a page that loads nothing, and smaller than max_megabytes (10^6 bytes each).

        {"out": "report.html", "bytes": 8123456, "samples": 84, "pictures": 1428, "left_out": 0,
         "pictures_missing": null}

    samples: how many of each kind of disagreement, views: of how many views of each the parameters and pictures.
    workers: processes that replay them; by default as many as there are cores and work for. RenderError where one dies,
    or none has done anything for worker_timeout_s.
    left_out counts pictures for which there was no room; pictures_missing says in one line why there are none at all.
    Nothing is random but the views of the summary's sample, which `seed` draws. StoreError where the page cannot be
    written, exists already, has no room for its text, or plotly is absent.
    """
    out = Path(out)
    _check_place(out)
    script = plotly_script()
    statistics = read_statistics(store, on_labels)
    data = collect(
        store,
        statistics,
        samples=samples,
        views=views,
        views_sampled=views_sampled,
        seed=seed,
        on_params=on_params,
        on_plans=on_plans,
    )
    room = int(max_megabytes * 1e6) - len(render(data, script).encode()) - 1000
    if room < 0:
        raise StoreError(
            f"{out} would be {(int(max_megabytes * 1e6) - room) / 1e6:.1f} MB without a single picture: "
            "give a larger --max-megabytes"
        )
    add_pictures(store, data, room, workers=workers, on_progress=on_pictures, timeout_s=worker_timeout_s)
    page = render(data, script).encode()
    with replacing(out) as aside:
        aside.write_bytes(page)
    return {
        "out": str(out),
        "bytes": len(page),
        "samples": len(data["samples"]),
        "pictures": data["pictures"]["shown"],
        "left_out": data["pictures"]["left_out"],
        "pictures_missing": data["pictures"]["missing"],
    }


# What the page says


def collect(
    store: Store,
    statistics: LabelStatistics,
    *,
    samples: int = SAMPLES_SHOWN,
    views: int = VIEWS_SHOWN,
    views_sampled: int = VIEWS_SAMPLED,
    seed: int = 0,
    on_params: OnProgress | None = None,
    on_plans: OnProgress | None = None,
) -> dict[str, Any]:
    """Everything on the page but pictures, as plain JSON; names are as the store has them.

    {"summary": as `summarise` has it, "class_names": [...], "labels": [16000, ...],    of the samples of each class
     "classes": as `confusions` has it, each with its "number"; of more than CLASSES those of which fewest labels are
                their own class, and only these are told of one by one in the summary, too
     "classes_left_out": 0,
     "pairs": {"shown": [[truth, label, count], ...], "all": 5321},    class numbers, diagonal included
     "lists": what `disagreements` says, without rows,
     "samples": [{"kinds": {"label_errors": ROW, ...}, "detail": as `describe_sample` has it,
                  "image": null, "views": [null, ...]}, ...],          the most striking of every kind first
     "pictures": {"shown": 0, "left_out": 0, "missing": null, ...}}
    """
    found = disagreements(store, limit=samples, seed=seed, statistics=statistics, on_plans=on_plans)
    kinds: dict[int, dict[str, Any]] = {}
    for _, kind, row in sorted(_ranked(found), key=lambda entry: entry[0]):
        kinds.setdefault(row["sample"], {})[kind] = row
    details = [describe_sample(store, number, limit=views) for number in kinds]
    summary = summarise(store, statistics=statistics, views_sampled=views_sampled, seed=seed, on_params=on_params)
    classes = confusions(store, statistics=statistics)["classes"]
    shown = _least_agreed_with(classes)
    summary["agreement_by_class"] = [summary["agreement_by_class"][number] for number in shown]
    if summary["sampled"] is not None:
        summary["sampled"]["by_class"] = [summary["sampled"]["by_class"][number] for number in shown]
    return {
        "summary": summary,
        "class_names": list(store.class_names),
        "labels": [row["labels"] for row in classes],
        "classes": [{"number": number, **classes[number]} for number in shown],
        "classes_left_out": len(classes) - len(shown),
        "pairs": _pairs(statistics),
        "lists": {
            name: {"samples": value["samples"], "rows": len(value["rows"])} if name in KINDS else value
            for name, value in found.items()
        },
        "samples": [
            {"kinds": of, "detail": detail, "image": None, "views": [None] * len(detail["views"])}
            for of, detail in zip(kinds.values(), details, strict=True)
        ],
        "pictures": {
            "shown": 0,
            "left_out": 0,
            "differ": 0,
            "exact": max(store.policy.size) <= EXACT_SIDE,
            "side": SIDE,
            "missing": next((each["views_missing"] for each in details if each["views_missing"]), None),
        },
    }


def _ranked(found: dict[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for kind in KINDS:
        for rank, row in enumerate(found[kind]["rows"]):
            yield rank, kind, row


def _least_agreed_with(classes: Sequence[dict[str, Any]]) -> list[int]:
    """The numbers, ascending, of the CLASSES of which fewest labels are their own class; those without labels last."""
    own = [row["own"] for row in classes]
    ranked = sorted(range(len(own)), key=lambda number: (own[number] is None, own[number]))
    return sorted(ranked[:CLASSES])


def _pairs(statistics: LabelStatistics) -> dict[str, Any]:
    own, different = [], 0
    for truth, labels, counts in statistics.confusions.rows():
        own += [[truth, truth, count] for count in counts[labels == truth].tolist()]
        different += int((labels != truth).sum())
    own.sort(key=lambda pair: -pair[2])
    shown = most_frequent(statistics.confusions, PAIRS).T.tolist()
    return {"shown": own + shown, "all": different, "left_out": different - len(shown)}


# The page


def render(data: dict[str, Any], plotly: str) -> str:
    """data of `collect` and a script as `packed` -> HTML. Names are escaped, and shown as `shown` has them."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    templates.filters["counted"] = counted
    templates.filters["count"] = lambda number: f"{number:,}"
    shown = _printable(data)
    return templates.get_template("report.html.jinja").render(
        shown,
        kinds=KINDS,
        data=embedded(shown | {"kinds": KINDS}),
        plotly=plotly,
        script=_script((_PAGE / "report.js").read_text("utf-8")),
        style=markupsafe.Markup((_PAGE / "report.css").read_text("utf-8")),
    )


def embedded(value: Any) -> markupsafe.Markup:
    """JSON that may stand in a <script>: nothing in it ends one, opens a comment, or ends a line of JavaScript."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 and U+2029 are escaped
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return markupsafe.Markup(text)


def plotly_script() -> str:
    """plotly.js, as Python's plotly brings it: its full bundle, 5 MB, which is `packed`. StoreError where it is not
    installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise StoreError("the report needs plotly, which is not installed: pip install plotly") from None
    return packed(get_plotlyjs())


def packed(script: str) -> str:
    """A script as the page carries it, which unpacks it itself: a third as long."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _script(text: str) -> markupsafe.Markup:
    return markupsafe.Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.startswith("data:image/") and value.isprintable() else shown(value, MESSAGE)
    if isinstance(value, dict):
        return {shown(name, MESSAGE): _printable(each) for name, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list) else value


def _check_place(out: Path) -> None:
    check_local(out)
    if os.path.lexists(out):
        raise StoreError(f"{out} exists already: remove it, or choose another --out")
    if not out.parent.is_dir():
        raise StoreError(f"there is no folder {out.parent} to write {out.name} into: make it")
    check_outside(out)
