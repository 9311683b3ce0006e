"""Curves of accuracy with their intervals, as pictures beside the page."""

from pathlib import Path

from teacher_cache.files import replacing
from teacher_cache.messages.shown import counted
from tools.evidence.compare import mean_of
from tools.evidence.errors import EvidenceError
from tools.evidence.page import SCALES, Scale, drawable, read_scale
from tools.evidence.settings import Experiment

INSTALL = "matplotlib is not installed: pip install -e '.[plot]'"


def write_plots(folder: Path) -> list[Path]:
    """Draw every curve that has two points; the files. EvidenceError without matplotlib, DiskError."""
    written = []
    for scale in (read_scale(folder, name) for name in SCALES):
        for name, experiment in scale.settings.experiments.items():
            if drawable(scale, name, experiment):
                path = folder / f"{scale.settings.name}-{name}.png"
                draw(scale, name, experiment, path)
                written.append(path)
    return written


def draw(scale: Scale, name: str, experiment: Experiment, path: Path) -> None:
    """Top-1 of the fused answer against the settings' axis; bars are 95 % intervals of an arm's mean. Writes a PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise EvidenceError(INSTALL) from None

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curve in experiment.curves:
        found = [(at, scale.arm(name, arm)) for at, arm in zip(curve.at, curve.arms, strict=True)]
        points = [(at, mean_of(rows, "fused"), len(rows)) for at, rows in found if rows]
        if not points:
            continue
        fewest = min(count for *_, count in points)
        label = f"{curve.label}, at least {counted(fewest, 'seed')} a point"
        axes.errorbar(
            [at for at, *_ in points],
            [100 * mean.value for _, mean, _ in points],
            yerr=[100 * mean.half for _, mean, _ in points],
            marker="o",
            capsize=3,
            label=label,
        )
    axes.set_xscale("log", base=2)
    places = sorted({at for curve in experiment.curves for at in curve.at})
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
    axes.set_xlabel(experiment.axis)
    axes.set_ylabel("top-1 %, fused")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(f"{experiment.title}:\n{scale.settings.data.what}", fontsize=9, parse_math=False)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
