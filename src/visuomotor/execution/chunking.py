"""How a chunk of actions becomes one action per control step. numpy only: this also runs on the robot's computer."""

import numpy as np


class ChunkError(ValueError):
    """A chunk that must not reach a robot: wrong shape, or a number that is not finite."""


def check_chunk(actions: np.ndarray, action_dim: int) -> np.ndarray:
    """The chunk as float32[T, action_dim]; raises ChunkError when it has another shape or is not finite."""
    actions = np.asarray(actions)
    if actions.ndim != 2 or actions.shape[1] != action_dim or not len(actions):
        raise ChunkError(
            f"The policy gave actions of shape {list(actions.shape)}; expected [T, {action_dim}] with T > 0."
        )
    finite = np.isfinite(actions)
    if not finite.all():
        step, dim = (int(i) for i in np.argwhere(~finite)[0])
        raise ChunkError(
            f"The policy gave {int((~finite).sum())} non-finite action values; the first is "
            f"{actions[step, dim]} at step {step}, dimension {dim} of the chunk."
        )
    return actions.astype(np.float32)


class RecedingHorizon:
    """Run the first `execute` actions of each chunk, then ask for a new one.

        executor = RecedingHorizon(action_dim=7, execute=8)
        while running:
            if executor.needs_chunk:
                executor.update(policy.infer([observation])[0].actions)
            robot.step(executor.next_action())

    A chunk shorter than `execute` is run whole.
    """

    def __init__(self, *, action_dim: int, execute: int) -> None:
        if execute < 1:
            raise ValueError(f"Expected to execute at least 1 action of a chunk; given execute={execute}.")
        self.action_dim, self.execute = action_dim, execute
        self.reset()

    def reset(self) -> None:
        """Forget the present chunk: a new episode or a new instruction starts."""
        self._actions = np.empty((0, self.action_dim), np.float32)
        self._next = 0

    @property
    def needs_chunk(self) -> bool:
        """True when the policy must look again before the next action."""
        return self._next >= min(self.execute, len(self._actions))

    def update(self, actions: np.ndarray) -> None:
        """Take a new chunk [T, action_dim] in robot units. Raises ChunkError and keeps the old one if it is bad."""
        self._actions = check_chunk(actions, self.action_dim)
        self._next = 0

    def next_action(self) -> np.ndarray:
        """The action float32[action_dim] of this control step."""
        if self.needs_chunk:
            raise RuntimeError("All actions of this chunk were executed; call update with a new chunk first.")
        action = self._actions[self._next]
        self._next += 1
        return action
