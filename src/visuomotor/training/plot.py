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

    figure = Figure(figsize=(4.2 * len(shown), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (title, lines, scale) in zip(axes, shown, strict=True):
        for name, points in lines.items():
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, label=name, linewidth=1.4)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.set_yscale(scale)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
    return picture
