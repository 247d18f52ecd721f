"""Tabletop: a small arm, coloured objects, bowls, a drawer and a button, asked for in compositional language."""

from typing import Any

from visuomotor.contract import Scenario
from visuomotor.simulation.tabletop import language
from visuomotor.simulation.tabletop.environment import EMBODIMENT, TabletopEnvironment

__all__ = ["EMBODIMENT", "TabletopEnvironment", "make", "scenarios", "splits"]


def make(
    *, render_quality: str = "fast", cameras_px: int = 128, vocabulary: str = "small", **variation: Any
) -> TabletopEnvironment:
    """A tabletop environment; `variation` are fields of visuomotor.simulation.tabletop.variation.Variation."""
    return TabletopEnvironment(render_quality=render_quality, cameras_px=cameras_px, vocabulary=vocabulary, **variation)


def scenarios(split: str, count: int, seed: int, vocabulary: str = "small", **options: Any) -> list[Scenario]:
    """`count` scenarios of a split, balanced over tasks, the same for the same arguments."""
    return language.scenarios(split, count, seed, vocabulary=vocabulary, **options)


def splits() -> tuple[str, ...]:
    """Names of the splits, `train` first."""
    return language.splits()
