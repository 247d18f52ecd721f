"""Record one episode: a demonstration by the scripted expert, or unrelated single frames for grounding."""

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np

from visuomotor.contract import Annotation, Embodiment, Episode, Scenario
from visuomotor.simulation.interface import Environment, WorldSpec

BURST_START = 0.08  # chance per step that a disturbance begins
BURST_STEPS = (2, 6)  # its length, steps, inclusive


class ActionNoise:
    """Disturbs the executed action in random bursts, so that demonstrations show recovery.

    During a burst one offset is added to every component but the gripper: independent noise at each step would
    average out and hardly move the arm. The offset's standard deviation is `share` of half the component's range.
    """

    def __init__(self, embodiment: Embodiment, share: float, rng: np.random.Generator) -> None:
        self._scale = share * _half_range(embodiment) if share else np.zeros(embodiment.action_dim)
        self._low, self._high = _limits(embodiment)
        self._rng, self._left = rng, 0
        self._offset = np.zeros(embodiment.action_dim)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """The action to execute, float32[a], within the embodiment's limits; `action` itself is left alone."""
        if self._left == 0 and self._rng.random() < BURST_START:
            self._left = int(self._rng.integers(BURST_STEPS[0], BURST_STEPS[1] + 1))
            self._offset = self._rng.normal(size=self._scale.shape) * self._scale
        if self._left == 0 or not self._scale.any():
            return action
        self._left -= 1
        moved = np.clip(action + self._offset, self._low, self._high)
        return np.where(self._scale > 0, moved, action).astype(np.float32)


def require_recordable(world: WorldSpec, *, scenes: bool) -> None:
    """ValueError where the world lacks a part without which nothing can be recorded."""
    parts = ("shuffle", "annotator") if scenes else ("demonstrator",)
    missing = [name for name in parts if getattr(world, name) is None]
    if missing:
        what = "pictures of scenes" if scenes else "demonstrations"
        raise ValueError(
            f"World {world.name!r} has no {' and no '.join(missing)}, so no {what} can be collected in it; give its "
            f"WorldSpec one, or collect in another world. Evaluation and play need neither."
        )


def record_demonstration(
    world: WorldSpec, env: Environment, scenario: Scenario, action_noise: float, seed: int
) -> Episode | None:
    """The expert's episode of `scenario`, None when it did not succeed. Recorded actions are the expert's own.

    Frame t holds state, images and, where the world has an annotator, annotation before action t. `seed` varies the
    expert's style and the noise.
    """
    assert world.demonstrator is not None
    env.reset(options={"scenario": scenario})
    expert = world.demonstrator(env, np.random.default_rng([seed, scenario.seed, 0]))
    noise = ActionNoise(env.embodiment, action_noise, np.random.default_rng([seed, scenario.seed, 1]))
    frames, closed, info = _Frames(), None, {}
    for _ in range(env.max_steps):
        action = np.asarray(expert.act(), np.float32)
        grasp = _closed(env.embodiment, action)
        switched = closed is not None and grasp != closed
        annotation = None
        if world.annotator is not None:
            annotation = replace(world.annotator(env), subtask=expert.subtask, gripper_switch=switched)
        frames.add(env, action, annotation)
        closed = grasp
        _, _, terminated, truncated, info = env.step(noise(action))
        if terminated or truncated:
            break
    if not info.get("success", False):
        return None
    record = {"scenario": dataclasses.asdict(scenario), "success": True, "seed": seed, "noise": action_noise}
    return frames.episode(env.instruction, record)


def record_scenes(world: WorldSpec, env: Environment, scenario: Scenario, count: int, seed: int) -> Episode:
    """`count` unrelated frames with boxes of all objects: the objects lie anew in each. No words, zero actions."""
    assert world.shuffle is not None
    assert world.annotator is not None
    env.reset(options={"scenario": scenario})
    rng = np.random.default_rng([seed, scenario.seed, 2])
    frames, idle = _Frames(), np.zeros(env.embodiment.action_dim, np.float32)
    for _ in range(count):
        world.shuffle(env, rng)
        frames.add(env, idle, world.annotator(env))
    return frames.episode("", {"kind": "scenes", "scenario": dataclasses.asdict(scenario), "seed": seed})


class _Frames:
    """Frames on their way to an Episode."""

    def __init__(self) -> None:
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._images: dict[str, list[np.ndarray]] = {}
        self._annotations: list[Annotation] = []

    def add(self, env: Environment, action: np.ndarray, annotation: Annotation | None) -> None:
        self._states.append(np.array(env.state(), np.float32))
        self._actions.append(np.array(action, np.float32))
        self._annotations += [] if annotation is None else [annotation]
        for camera, image in env.images().items():
            self._images.setdefault(camera, []).append(np.array(image))

    def episode(self, instruction: str, info: dict[str, Any]) -> Episode:
        return Episode(
            instruction=instruction,
            state=np.stack(self._states),
            actions=np.stack(self._actions),
            images={camera: np.stack(images) for camera, images in self._images.items()},
            annotations=tuple(self._annotations),
            info=info,
        )


def _limits(embodiment: Embodiment) -> tuple[np.ndarray, np.ndarray]:
    low = [v for c in embodiment.action for v in (c.low or (-np.inf,) * len(c.dims))]
    high = [v for c in embodiment.action for v in (c.high or (np.inf,) * len(c.dims))]
    return np.array(low, np.float32), np.array(high, np.float32)


def _half_range(embodiment: Embodiment) -> np.ndarray:
    """Half the range of each action dimension, 0 for grippers: what a noise of 1 means, in robot units."""
    scale = []
    for component in embodiment.action:
        if component.kind == "gripper":
            scale += [0.0] * len(component.dims)
        elif component.low is None or component.high is None:
            raise ValueError(
                f"Action noise is a share of the limits, but component {component.name!r} of embodiment "
                f"{embodiment.name!r} has none. Give it low and high, or collect with action_noise=0."
            )
        else:
            scale += [(high - low) / 2 for low, high in zip(component.low, component.high, strict=True)]
    return np.array(scale)


def _closed(embodiment: Embodiment, action: np.ndarray) -> tuple[bool, ...]:
    """Per gripper, whether the action commands it to close."""
    slices, commands = embodiment.action_slices(), []
    for component in embodiment.action:
        if component.kind == "gripper" and component.opened is not None and component.closed is not None:
            middle = (component.opened + component.closed) / 2
            value = float(action[slices[component.name]].mean())
            commands.append((value > middle) == (component.closed > component.opened))
    return tuple(commands)
