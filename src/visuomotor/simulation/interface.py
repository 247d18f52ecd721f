"""One small interface for every environment: gymnasium-compatible, Embodiment attached, images only on request.

    env = make_environment("tabletop", render_quality="fast")
    state, info = env.reset(options={"scenario": scenario})
    observation = env.observe()                      # renders the embodiment's cameras
    state, reward, terminated, truncated, info = env.step(action)   # renders nothing

`info` of reset and step: {"success": bool (so far), "progress": float 0-1, "instruction": str}, and where the world
tells them "stages", {name: how much of it is done, 0-1} in order.
`terminated` is True on success or on a final failure; `truncated` at `max_steps`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import gymnasium
import numpy as np

from visuomotor.contract import Annotation, Embodiment, Observation, Scenario
from visuomotor.spelling import did_you_mean


class Expert(Protocol):
    """A scripted policy with access to simulator state. It looks at the state at each call, so it recovers."""

    subtask: str

    def act(self) -> np.ndarray:
        """The action float32[a] for the environment's present state, in robot units; updates `subtask`."""
        ...


class Environment(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment. `reset` and `step` return the state float32[s]; `observe` adds images and instruction."""

    name: str
    embodiment: Embodiment
    render_quality: str
    max_steps: int
    instruction: str

    @abstractmethod
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start `options["scenario"]` (a Scenario), or a random training scenario drawn with `seed`."""

    @abstractmethod
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step. A non-finite or wrongly shaped action raises ValueError."""

    @abstractmethod
    def images(self, cameras: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Render uint8[h, w, 3] for the named cameras (default: all of the embodiment's)."""

    @abstractmethod
    def state(self) -> np.ndarray:
        """The present state float32[s] in robot units."""

    @abstractmethod
    def annotate(self) -> Annotation:
        """Boxes, end-effector point, progress and contact of the present state; subtask '' (the expert knows it)."""

    @abstractmethod
    def expert(self, rng: np.random.Generator) -> Expert:
        """A scripted expert for the present scenario; `rng` varies its style (speed, height, grasp offset)."""

    def observe(self) -> Observation:
        return Observation(images=self.images(), state=self.state(), instruction=self.instruction)


class World(Protocol):
    """What a simulation package offers: the module named in WORLDS has these three functions."""

    def make(self, **options: Any) -> Environment:
        """A new environment."""
        ...

    def scenarios(self, split: str, count: int, seed: int, **options: Any) -> list[Scenario]:
        """`count` scenarios of a split, balanced over tasks, the same for the same arguments."""
        ...

    def splits(self) -> tuple[str, ...]:
        """Names of the splits, `train` first."""
        ...


WORLDS = {
    "tabletop": "visuomotor.simulation.tabletop",
    "metaworld": "visuomotor.simulation.metaworld",
}


def load_world(name: str) -> World:
    """The simulation module behind an environment name."""
    if name not in WORLDS:
        hint = did_you_mean(name, WORLDS)
        raise ValueError(f"Unknown environment {name!r}.{hint} Available: {', '.join(sorted(WORLDS))}.")
    return import_module(WORLDS[name])  # type: ignore[return-value]


def make_environment(name: str, **options: Any) -> Environment:
    """Make the named environment; options go to the world's `make`."""
    return load_world(name).make(**options)


def make_scenarios(name: str, split: str, count: int, seed: int, **options: Any) -> list[Scenario]:
    """Scenarios of the named environment (see World.scenarios)."""
    return load_world(name).scenarios(split, count, seed, **options)
