"""What the audit prints on a terminal: tables of the other files' plain data."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console

from teacher_cache.audit.names import ERASED_WITH, mix_text
from teacher_cache.messages.shown import counted, shown
from teacher_cache.storage.place import as_place
from teacher_cache.terminal import line, table

ROWS_SHOWN = 20
BAR_CHARACTERS = 40
WHOLE = dict.fromkeys(("sample", "shard", "key"), 200)  # names that other commands are called with: so many characters
NUMBERS = {"samples", "labels", "count", "views", "blocks", "evidence", "entropy", "differ", "given", "votes"}


# Summary


def show_summary(report: dict[str, Any], console: Console) -> None:
    coverage = report["coverage"]
    say(
        console,
        f"{report['store']}: {counted(report['samples'], 'sample')} in {counted(report['shards'], 'shard')} x "
        f"{counted(report['views'], 'view')}, "
        f"{counted(report['classes'], 'class')}; {report['units_committed']:,} of "
        f"{counted(report['units'], 'unit')} filled "
        f"({_percent(coverage['share'])})",
    )
    if not report["units_committed"]:
        say(console, f"Nothing is filled yet: run `teacher-cache fill {as_place(report['store'])} --teacher T`.")
        return
    if report["topk"]:
        size = sum(report["bytes"][name] for name in ("topk_classes", "topk_probabilities"))
        say(
            console,
            f"Soft labels: the {counted(report['topk'], 'largest probability')} of each view at tau {report['tau']:g}, "
            f"{size / 1e6:.2f} MB",
        )
    if report["mixed"]:
        say(
            console,
            "Views are mixed (Mixup or CutMix): the teacher labels the mixed image, so agreement with a sample's own "
            "class is expected to be lower, and its labels to vary more from view to view.",
        )
    shards = sorted(coverage["shards"], key=lambda row: (row["share"] is None, row["share"]))
    _table(
        console,
        f"Coverage by shard, the least filled first ({min(ROWS_SHOWN, len(shards))} of {len(shards)})",
        ("shard", "samples", "filled"),
        ((row["shard"], f"{row['samples']:,}", _percent(row["share"])) for row in shards[:ROWS_SHOWN]),
    )
    if report["agreement"] is not None:
        _show_agreement(report, console)
    if report["stability"] is not None:
        _show_stability(report["stability"], console)
    contradictions = report["contradictions"]
    _table(
        console,
        f"Samples whose commonest label is not their class: {contradictions['samples']:,}, by share of their labels",
        ("shard", "key", "class", "commonest label", "share", "labels"),
        (
            (row["shard"], row["key"], row["class"], row["label"], _percent(row["share"]), str(row["labels"]))
            for row in contradictions["first"]
        ),
    )
    if report["sampled"] is not None:
        _show_sampled(report["sampled"], console)
    elif report["sampled_missing"] is not None:
        console.print()
        say(console, f"Nothing about crops, mixes and operations: {report['sampled_missing']}")
    skipped = report["skipped"]["all"]
    _table(
        console,
        f"Skipped samples: {len(skipped):,}",
        ("shard", "key"),
        ((row["shard"], row["key"]) for row in skipped[:ROWS_SHOWN]),
    )


def _show_agreement(report: dict[str, Any], console: Console) -> None:
    agreement = report["agreement"]
    _table(
        console,
        f"Agreement of {counted(report['labelled'], 'label')} with the ground truth",
        ("label is", "share"),
        (
            ("the sample's own class", _percent(agreement["own"])),
            ("the class with the larger lambda", _percent(agreement["larger"])),
            ("either class of the pair", _percent(agreement["either"])),
        ),
    )
    groups = [row for row in report["agreement_by_group"] if row["labels"]]
    if len(groups) > 1:
        _table(
            console,
            "Agreement by group of views",
            ("group", "labels", "own class", "larger lambda", "either class"),
            (
                (
                    f"{row['views'][0]} to {row['views'][1] - 1}",
                    f"{row['labels']:,}",
                    *(_percent(row[name]) for name in ("own", "larger", "either")),
                )
                for row in groups
            ),
        )
    classes = sorted((row for row in report["agreement_by_class"] if row["labels"]), key=lambda row: row["own"])
    _table(
        console,
        f"Agreement by class, the lowest first ({min(ROWS_SHOWN, len(classes))} of {len(classes)})",
        ("class", "labels", "own class"),
        ((row["class"], f"{row['labels']:,}", _percent(row["own"])) for row in classes[:ROWS_SHOWN]),
    )
    _show_pairs(report["confused"], console)


def _show_pairs(pairs: list[dict[str, Any]], console: Console) -> None:
    _table(
        console,
        "Most confused pairs",
        ("class", "label", "count", "share of the class", "the other way round"),
        (
            (row["class"], row["label"], f"{row['count']:,}", _percent(row["share"]), _percent(row["back"]))
            for row in pairs
        ),
    )


def _show_stability(stability: dict[str, Any], console: Console) -> None:
    console.print()
    say(
        console,
        f"Stability of {counted(stability['samples'], 'sample')} with two labels or more: their commonest label has "
        f"{_percent(stability['mean_share'])} of the labels on average, entropy {stability['mean_entropy_bits']:.2f} "
        f"bits; {_percent(stability['unanimous'] / stability['samples'])} have one label in all views",
    )
    for title, bins in (
        ("share of the commonest label", stability["share_bins"]),
        ("entropy in bits", stability["entropy_bins"]),
    ):
        counts, most = bins["samples"], max(bins["samples"])
        _table(
            console,
            None,
            (title, "samples", ""),
            (
                (f"{low:.1f} to {high:.1f}", f"{count:,}", _bar(count / most))
                for (low, high), count in zip(pairwise(bins["edges"]), counts, strict=True)
            ),
        )


def _show_sampled(sampled: dict[str, Any], console: Console) -> None:
    console.print()
    say(
        console,
        f"On {counted(sampled['views'], 'view')} at random ({sampled['block_views']:,} of "
        f"{sampled['block_views_committed']:,} (block, view)s, seed {sampled['seed']}), labels that are the sample's "
        f"own class; counted are {sampled['dominant']}",
    )
    _measured(console, "share of the image that is shown", sampled["by_visible_share"], _range_of)
    _measured(console, "operation", sampled["by_operation"], lambda row: row["operation"] or "none")
    _measured(console, "share of the view that is erased", sampled["by_erased_share"], _range_of)
    rows = [row for row in sampled["by_lambda"] if row["own"]["views"]]
    _table(
        console,
        "By the sample's own share of the mix: all views" if rows else None,
        ("mix", "own share", "views", "own class", "95 %", "partner's class", "95 % of that"),
        (
            (
                row["mix"],
                _range_of(row),
                f"{row['own']['views']:,}",
                *(text for name in ("own", "partner") for text in _share_and_interval(row[name])),
            )
            for row in rows
        ),
    )
    classes = [row for row in sampled["by_class"] if _apart(row["small_crops"], row["large_crops"])]
    classes.sort(key=lambda row: row["small_crops"]["share"] - row["large_crops"]["share"])
    _table(
        console,
        f"Classes that small crops cost, beyond both intervals ({len(classes)} of {len(sampled['by_class'])}): "
        "at most a third of the image shown, against more than two thirds",
        ("class", "small crops", "95 %", "large crops", "95 % of them"),
        (
            (row["class"], *_share_and_interval(row["small_crops"]), *_share_and_interval(row["large_crops"]))
            for row in classes[: ROWS_SHOWN // 2]
        ),
    )
    console.print()
    say(console, f"Intervals: {sampled['interval']}")


def _apart(lower: dict[str, Any], higher: dict[str, Any]) -> bool:
    return bool(lower["views"] and higher["views"] and lower["interval"][1] < higher["interval"][0])


def _measured(console: Console, title: str, rows: list[dict[str, Any]], name: Callable[[dict[str, Any]], str]) -> None:
    shown = [row for row in rows if row["views"]]
    if len(shown) > 1:
        _table(
            console,
            None,
            (title, "views", "own class", "95 %", ""),
            ((name(row), f"{row['views']:,}", *_share_and_interval(row), _bar(row["share"])) for row in shown),
        )


def _share_and_interval(row: dict[str, Any]) -> tuple[str, str]:
    if row["interval"] is None:
        return "-", ""
    return _percent(row["share"]), f"{100 * row['interval'][0]:.1f} to {100 * row['interval'][1]:.1f}"


def _range_of(row: dict[str, Any]) -> str:
    return "none" if row["to"] == 0 else f"{row['from']:.0%} to {row['to']:.0%}"


# The other commands


def show_disagreements(report: dict[str, Any], console: Console) -> None:
    say(console, f"{report['store']}: {report['evidence']}")
    for name, title in (
        ("label_errors", "Likely label errors: another label leads, the surest first"),
        ("multi_label", "Two stable labels, the evenest first"),
        ("unstable", "Unstable: no label has half of the evidence"),
    ):
        rows = report[name]["rows"]
        _table(
            console,
            f"{title} ({len(rows)} of {report[name]['samples']:,})",
            ("sample", "class, its share", "label, its share", "second, its share", "evidence", "entropy"),
            (
                (
                    f"{row['shard']}/{row['key']}",
                    f"{row['class']} {_percent(row['own_share'])}",
                    f"{row['label']} {_percent(row['share'])}",
                    f"{row['second']} {_percent(row['second_share'])}" if row["second"] else "-",
                    f"{row['evidence']:.1f}",
                    f"{row['entropy_bits']:.2f}",
                )
                for row in rows
            ),
        )


def show_confusions(report: dict[str, Any], console: Console, limit: int) -> None:
    say(
        console,
        f"{report['store']}: {counted(report['labels'], 'label')}, {_percent(report['own'])} of them the "
        "sample's own class" + ("; views are mixed, so a pair counts partners too" if report["mixed"] else ""),
    )
    _show_pairs(report["confused"], console)
    classes = sorted((row for row in report["classes"] if row["labels"]), key=lambda row: row["own"])
    _table(
        console,
        f"Classes, the least agreed with first ({min(limit, len(classes))} of {len(classes)})",
        ("class", "labels", "own class", "given", "rightly", "taken for"),
        (
            (
                row["class"],
                f"{row['labels']:,}",
                _percent(row["own"]),
                f"{row['given']:,}",
                _percent(row["precision"]),
                ", ".join(f"{shown(each['label'], 30)} {_percent(each['share'])}" for each in row["taken_for"][:3]),
            )
            for row in classes[:limit]
        ),
    )


def show_sample(found: dict[str, Any], console: Console) -> None:
    say(
        console,
        f"{_name(found)}: class {shown(found['class'])}; {found['num_labels']} of "
        f"{counted(len(found['labels']), 'view', 'is')} labelled, {_percent(found['own_share'])} of them so"
        + (f"; skipped in {counted(len(found['skipped']), 'view')}" if found["skipped"] else ""),
    )
    _table(
        console,
        None,
        ("label", "votes", "share", ""),
        (
            (vote["label"], str(vote["votes"]), _percent(vote["share"]), _bar(vote["share"]))
            for vote in found["votes"][:ROWS_SHOWN]
        ),
    )
    _table(
        console,
        None,
        ("view", "label", "agrees", "shows", "mix", "operations"),
        (
            (
                str(each["view"]),
                each["label"] or "-",
                each["agrees"] or "-",
                _percent(each["visible_share"]),
                _mix_text(each["mix"]),
                ", ".join(_operations(each["params"], each["erased_share"])),
            )
            for each in found["views"]
        ),
    )
    if found["views_missing"] is not None:
        console.print()
        say(console, f"No view parameters and no sheet: {found['views_missing']}")
    else:
        console.print()
        say(console, f"sheet: {found['png']}")
    for number in found["digests_differ"][:1]:
        say(console, f"{counted(len(found['digests_differ']), 'view')}, the first {number}, {_NOT_THE_PIXELS}")


_NOT_THE_PIXELS = "are not the pixels that were labelled: `teacher-cache verify` says more"


def show_view(found: dict[str, Any], console: Console) -> None:
    label = "not labelled" if found["label"] is None else shown(found["label"])
    agrees = {"own": "its own class", "partner": "its partner's class", "neither": "neither class", None: "-"}
    rows = [
        ("class", shown(found["class"])),
        ("label", f"{label} ({agrees[found['agrees']]})" if found["label"] is not None else label),
        *_param_rows(found),
    ]
    if found["probabilities"] is not None:
        parts = ", ".join(f"{shown(each['class'], 30)} {each['probability']:.3f}" for each in found["probabilities"])
        rows.append(("probabilities", f"{parts}; all others {found['other']:.3f}; at tau {found['tau']:g}"))
    if found["mix"] is None:
        rows.append(("mix", "none: this view is not mixed"))
    else:
        mix, partner = found["mix"], found["mix"]["partner"]
        box = ""
        if mix["box"] is not None:
            top, left, height, width = mix["box"]
            box = f"; the partner's box: {counted(height, 'row')} from {top}, {counted(width, 'column')} from {left}"
        rows += [
            ("mix", f"{mix_text(mix)}; lambda {mix['lambda']:.4f} is the sample's own share{box}"),
            ("partner", f"{_name(partner)}: class {shown(partner['class'])}"),
            *((f"partner's {name}", text) for name, text in _param_rows(partner)),
        ]
    equal = {
        True: "equal to the stored one: these are the pixels that were labelled",
        False: f"differs: these {_NOT_THE_PIXELS}",
        None: "none stored: the view is not filled yet",
    }
    rows += [("digest", equal[found["digest_equal"]]), ("picture", f"{found['png']}{_parts_text(found)}")]
    say(console, f"{_name(found)}, view {found['view']} of {found['num_views']}")
    for name, text in rows:
        say(console, f"  {name:<20} {text}")


def _parts_text(found: dict[str, Any]) -> str:
    if not found["unmixed"]:
        return ""
    if found["mix"] is None:
        return ": the view alone, as it is not mixed"
    return ": from left to right the mixed view, the sample's own before mixing, the partner's"


def _param_rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    params, (height, width) = found["params"], found["image_size"]
    crop, size = params["crop"], params["resized"]
    yield (
        "crop",
        f"{counted(crop['height'], 'row')} from {crop['top']}, {counted(crop['width'], 'column')} from "
        f"{crop['left']} of {height} x {width}, "
        f"resized to {size[0]} x {size[1]} ({params['interpolation']}); shows {_percent(found['visible_share'])}",
    )
    yield "flip", "yes" if params["flip"] else "no"
    operations = [
        each["name"] + ("" if each["value"] is None else f" {each['value']:.4g}") for each in params["operations"]
    ]
    yield "operations", ", ".join(operations) or "none"
    boxes = ", ".join(
        f"{counted(box['height'], 'row')} from {box['top']}, {counted(box['width'], 'column')} from {box['left']}"
        for box in params["erased"]
    )
    yield (
        "erased",
        f"{boxes}, {ERASED_WITH[params['erase_mode']]} in them: {_percent(found['erased_share'])}"
        if boxes
        else "nothing",
    )


def _operations(params: dict[str, Any], erased: float) -> list[str]:
    names = (["flip"] if params["flip"] else []) + [each["name"] for each in params["operations"]]
    return [*names, f"erased {_percent(erased)}"] if erased else names


def _mix_text(mix: dict[str, Any] | None) -> str:
    return "" if mix is None else f"{mix_text(mix)}: {shown(mix['partner']['class'], 30)}"


def show_comparison(report: dict[str, Any], console: Console) -> None:
    first, second = (shown(name or "no teacher") for name in report["teachers"])
    say(console, f"first {report['store']} ({first}), second {report['other']} ({second})")
    if report["why_not"] is not None:
        say(console, f"{shown(report['why_not'], None)}: samples are compared by their commonest label alone")
    for noun in ("view", "sample"):
        part = report[f"{noun}s"]
        if part is None:
            continue
        chance = "-" if part["kappa"] is None else f"{part['kappa']:.3f}"
        p_value = f"; McNemar p = {part['mcnemar_p']:.3g}" if "mcnemar_p" in part else ""
        say(
            console,
            f"{counted(part['compared'], noun)}: {_percent(part['agree'])} agree, kappa {chance}; ground truth: first "
            f"{_percent(part['hits'][0])}, second {_percent(part['hits'][1])}, only the first right "
            f"{part['only_first']:,}, only the second {part['only_second']:,}{p_value}",
        )
    if report["views"] is not None:
        _table(
            console,
            "Where the labels differ most often",
            ("first", "second", "count"),
            ((row["first"], row["second"], f"{row['count']:,}") for row in report["views"]["confused"]),
        )
    most, rows = report["differ_most"], report["differ_most"]["rows"]
    _table(
        console,
        f"Samples of different commonest labels, the surest first ({len(rows)} of {most['samples']:,})",
        ("sample", "class", "first", "share", "second", "of it", "differ"),
        (
            (
                f"{row['shard']}/{row['key']}",
                row["class"],
                row["first"],
                _percent(row["first_share"]),
                row["second"],
                _percent(row["second_share"]),
                "-" if row["differ"] is None else f"{row['differ']} of {row['views']}",
            )
            for row in rows
        ),
    )


# Printing


def _name(found: dict[str, Any]) -> str:
    return shown(f"{found['shard']}/{found['key']}", 200)


def say(console: Console, text: str, style: str = "") -> None:
    """Print prose, a line: paths and commands stay in one piece."""
    console.print(line(text, style), soft_wrap=True)


def _table(console: Console, title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a title and, where there are rows, a table."""
    made = table(columns, rows, right=NUMBERS, limits=WHOLE, show_edge=False)
    if title is not None or made.row_count:
        console.print()
    if title is not None:
        say(console, title, style="bold")
    if made.row_count:
        console.print(made)


def _bar(share: float) -> str:
    return "█" * round(BAR_CHARACTERS * share)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def show_report(found: dict[str, Any], console: Console) -> None:
    left = f", {found['left_out']:,} left out for lack of room" if found["left_out"] else ""
    size = f"{found['bytes'] / 1e6:.2f} MB"
    say(
        console,
        f"{found['out']}: {size}, {counted(found['samples'], 'sample')}, {counted(found['pictures'], 'picture')}{left}",
    )
    if found["pictures_missing"] is not None:
        say(console, f"pictures are missing: {found['pictures_missing']}")
