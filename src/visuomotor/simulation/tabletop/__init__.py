"""Tabletop: a small arm, coloured objects, bowls, a drawer and a button, asked for in compositional language."""

from typing import Any

from visuomotor.simulation.tabletop.environment import EMBODIMENT, TabletopEnvironment
from visuomotor.simulation.tabletop.language import scenarios, splits

__all__ = ["EMBODIMENT", "TabletopEnvironment", "make", "scenarios", "splits"]


def make(
    *, render_quality: str = "fast", cameras_px: int = 128, vocabulary: str = "small", **variation: Any
) -> TabletopEnvironment:
    """A tabletop environment; `variation` are fields of visuomotor.simulation.tabletop.variation.Variation."""
    return TabletopEnvironment(render_quality=render_quality, cameras_px=cameras_px, vocabulary=vocabulary, **variation)
