"""Interface of worlds and of their environments: gymnasium-compatible, Embodiment attached, images only on request.

    env = make_environment("tabletop", render_quality="fast")
    state, info = env.reset(options={"scenario": scenario})
    observation = env.observe()                      # renders the embodiment's cameras
    state, reward, terminated, truncated, info = env.step(action)   # renders nothing

`info` of step: {"success": bool (so far)}, and optionally "progress", 0-1 (default: 1 with success), and "stages",
{name: share of it that is done, 0-1} in order.
`terminated` is True on success or on a final failure; `truncated` at `max_steps`.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

from visuomotor.contract import Annotation, Embodiment, Observation, Scenario
from visuomotor.plugins import is_reference, load
from visuomotor.simulation.options import split_options
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
    render_quality: str = "default"
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

    def observe(self) -> Observation:
        return Observation(images=self.images(), state=self.state(), instruction=self.instruction)


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """What a world has. Optional parts are None where it lacks them, and what needs them refuses in a sentence.

        WORLD = WorldSpec(name="rooms", make=Rooms, scenarios=scenarios, robot=EMBODIMENT)

    make, scenarios   (**options) -> Environment; (split, count, seed, **options) -> `count` scenarios, balanced over
                      tasks, the same for the same arguments. An option goes to those that name it
    splits            names of the splits, `train` first
    robot             the environment's robot, with default options
    sentences         (**options) -> instructions that a tokenizer for this world is trained on
    demonstrator      (environment, generator) -> Expert for the present scenario; the generator varies its style
    annotator         (environment) -> Annotation of the present state, with an empty subtask, which the expert knows
    shuffle           (environment, generator): lay the objects anew, for pictures of unrelated scenes
    other_instruction (scenario, **options) -> sentence of another task that is possible in the same scene
    evaluation        fields in which an EvalPlan for this world differs from the default: splits, execute, options
    checkpoint        a policy for this world that comes with it
    demo, full_demo   fields in which its demo's plan (apps/demo.py) differs from the default, and those of a larger one
    """

    name: str
    make: Callable[..., Environment]
    scenarios: Callable[..., list[Scenario]]
    robot: Embodiment
    splits: tuple[str, ...] = ("train",)
    sentences: Callable[..., Iterable[str]] | None = None
    demonstrator: Callable[[Any, np.random.Generator], Expert] | None = None
    annotator: Callable[[Any], Annotation] | None = None
    shuffle: Callable[[Any, np.random.Generator], object] | None = None
    other_instruction: Callable[..., str] | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    demo: Mapping[str, Any] = field(default_factory=dict)
    full_demo: Mapping[str, Any] | None = None


WORLDS = {  # modules that have a WORLD
    "tabletop": "visuomotor.simulation.tabletop",
    "metaworld": "visuomotor.simulation.metaworld",
}


def load_world(world: str | WorldSpec) -> WorldSpec:
    """The world of a name, or of FILE.py:NAME; a WorldSpec is returned as it is."""
    if isinstance(world, WorldSpec):
        return world
    if is_reference(world):
        return load(world, WorldSpec, "a world")
    if world not in WORLDS:
        hint = did_you_mean(world, WORLDS)
        raise ValueError(f"Unknown world {world!r}.{hint} Available: {', '.join(sorted(WORLDS))}, or FILE.py:NAME.")
    return import_module(WORLDS[world]).WORLD


def world_for_workers(world: str | WorldSpec) -> str | WorldSpec:
    """`world` as a new process can load it: a reference as it is, since a file's functions need not be picklable."""
    return world if isinstance(world, str) and is_reference(world) else load_world(world)


def make_environment(world: str | WorldSpec, /, **options: Any) -> Environment:
    """Make a world's environment; those of the world's options that are for its scenarios are left out."""
    spec = load_world(world)
    return spec.make(**split_options(spec.make, spec.scenarios, options)[0])


def make_scenarios(world: str | WorldSpec, split: str, count: int, seed: int, /, **options: Any) -> list[Scenario]:
    """Scenarios of a world (see WorldSpec); those of its options that are for the environment are left out."""
    spec = load_world(world)
    return spec.scenarios(split, count, seed, **split_options(spec.make, spec.scenarios, options)[1])
