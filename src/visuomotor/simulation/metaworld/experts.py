"""The scripted policies that Meta-World ships, as experts of this library's interface."""

import warnings
from typing import Protocol

import numpy as np

from visuomotor.simulation.metaworld.pairs import PREFIX
from visuomotor.simulation.metaworld.tasks import TASKS

__all__ = ["MetaWorldExpert"]

# They warn at actions beyond [-1, 1]; these are clipped below, as the benchmark does.
warnings.filterwarnings("ignore", message="Constant", category=UserWarning, module="metaworld.policies")

_NEAR = 0.12  # metres; further away the arm is on its way to the object
_MOVED = 0.01  # metres; the object counts as moved


class ObservedTask(Protocol):
    """The environment, as far as its expert observes it."""

    task: str
    expert_observation: np.ndarray

    def touching(self) -> bool: ...


class MetaWorldExpert:
    """Meta-World's policy of the present task. It looks at the simulator's state at each call, so it recovers.

    `rng` varies its speed between 85 and 100 %. `subtask` is read off the state: reach, grasp (where there is one),
    act; it goes back to reaching when the arm has left the object.
    """

    def __init__(self, environment: ObservedTask, rng: np.random.Generator) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        name = environment.task.removeprefix(PREFIX)
        self._environment, self._task = environment, TASKS[name]
        self._policy = ENV_POLICY_MAP[f"{name}-v3"]()
        self._speed = rng.uniform(0.85, 1.0)
        self._object_start = environment.expert_observation[4:7].copy()
        self.subtask = self._task.reach

    def act(self) -> np.ndarray:
        """The action float32[4] for the present state."""
        action = np.asarray(self._policy.get_action(self._environment.expert_observation), np.float32).clip(-1, 1)
        self.subtask = self._phase(closing=action[3] > 0)
        action[:3] *= self._speed
        return action

    def _phase(self, *, closing: bool) -> str:
        task, observed = self._task, self._environment.expert_observation
        touching = self._environment.touching()
        if not touching and np.linalg.norm(observed[:3] - observed[4:7]) > _NEAR:
            return task.reach
        moved = np.linalg.norm(observed[4:7] - self._object_start) > _MOVED
        if task.grasp is not None and not moved:
            return task.grasp if closing else task.reach
        return task.act if touching or moved else task.reach
