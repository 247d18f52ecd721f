"""Learning curves from a run's metrics.jsonl, as SVG text for the report."""

import io
import json
from pathlib import Path
from typing import Any

COLOURS = ("#2262a5", "#c8701c", "#1a7f4b", "#8a3ffc", "#b3372f", "#0b7b8a")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut short by a kill is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def learning_curves(records: list[dict[str, Any]]) -> str:
    """One SVG: training loss terms, validation error of the actions, throughput; '' without records."""
    if not records:
        return ""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    panels = (
        ("training loss", series(records, "loss/"), "log"),
        ("action error on held-out episodes (normalised units)", series(records, "validation/action_error/"), "linear"),
        ("samples/s", series(records, "samples_per_second"), "linear"),
    )
    shown = [panel for panel in panels if panel[1]]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.2), squeeze=False)
    for axis, (title, lines, scale) in zip(axes[0], shown, strict=True):
        for index, (name, points) in enumerate(sorted(lines.items())):
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, label=name or None, color=COLOURS[index % len(COLOURS)], linewidth=1.4)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.set_yscale(scale)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return out.getvalue()[out.getvalue().index("<svg") :]


def series(records: list[dict[str, Any]], prefix: str) -> dict[str, list[tuple[int, float]]]:
    """{rest of the key: [(step, value), ...]} of all keys that start with `prefix`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for key, value in record.items():
            if key.startswith(prefix) and isinstance(value, int | float):
                found.setdefault(key[len(prefix) :], []).append((record["step"], float(value)))
    return found
