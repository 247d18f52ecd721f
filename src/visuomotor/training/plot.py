"""Learning curves of a run as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visuomotor.training.metrics import read_metrics

__all__ = ["plot_metrics", "series"]

PANELS = (
    ("training loss", "loss/", "log"),
    ("validation loss", "validation/loss/", "log"),
    ("action error (normalised units) by step of the chunk", "validation/action_error/", "linear"),
    ("samples/s", "samples_per_second", "linear"),
)
COLUMNS = 2
FEW = 20


def series(entries: Sequence[dict[str, Any]], prefix: str) -> dict[str, list[tuple[int, float]]]:
    """{rest of the key: [(step, value)]} of every numeric key that starts with `prefix`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in entries:
        for key, value in entry.items():
            if key.startswith(prefix) and isinstance(value, int | float):
                found.setdefault(key.removeprefix(prefix), []).append((entry["step"], float(value)))
    return found


def plot_metrics(metrics: Path, picture: Path) -> Path:
    """Draw metrics.jsonl into `picture` (PNG or SVG by its suffix); panels without values are left out."""
    entries = read_metrics(metrics)
    shown = [(title, lines, scale) for title, prefix, scale in PANELS if (lines := series(entries, prefix))]
    if not shown:
        raise ValueError(f"{metrics} has no logged steps yet, so there is nothing to draw.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    rows, columns = -(-len(shown) // COLUMNS), min(len(shown), COLUMNS)
    figure = Figure(figsize=(5.2 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(shown) :]:
        axis.remove()
    for axis, (title, lines, scale) in zip(axes[: len(shown)], shown, strict=True):
        for name, points in lines.items():
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) <= FEW else None  # a single point would not be seen as a line
            axis.plot(steps, values, label=name, linewidth=1.4, marker=marker, markersize=3.5)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.set_yscale(scale)
        if scale == "log":
            for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                which(LogFormatter(minor_thresholds=(2, 0.4)))  # 6, not 6 x 10^0
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
    return picture
