"""A benchmark for vla-eval without a simulator: an arm's state that sums up the actions it is given.

It is strict where the harness is not: actions must be finite float32[7] within the limits that the server declares.
"""

from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, ROTATION_AA, DimSpec

TASKS = ("put the red block into the left bowl", "open the drawer")


class Toy(StepBenchmark):
    """Two tasks of `steps` steps; success when every action could be executed."""

    render_backends = frozenset({"gpu", "cpu"})

    @classmethod
    def configure_render(cls, mode: str) -> dict[str, str]:
        return {}

    def __init__(self, steps: int = 20, send_wrist_image: bool = False, send_state: bool = False) -> None:
        super().__init__()
        if not (send_wrist_image and send_state):
            raise ValueError("The server's HELLO did not ask for the wrist camera and the state.")
        self.steps = steps

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in TASKS]

    def reset(self, task: dict[str, Any]) -> np.ndarray:
        self.count, self.state = 0, np.zeros(7, np.float32)
        return self.state

    def step(self, action: dict[str, Any]) -> StepResult:
        given = action["actions"]
        if given.shape != (7,) or given.dtype != np.float32 or not np.isfinite(given).all():
            raise ValueError(f"The server sent {given.dtype}{list(given.shape)}: {given}")
        self.count += 1
        self.state = np.clip(self.state + 0.1 * given, -0.2, 0.2).astype(np.float32)
        return StepResult(obs=self.state, reward=0.0, done=self.count >= self.steps, info={})

    def make_obs(self, raw_obs: np.ndarray, task: dict[str, Any]) -> dict[str, Any]:
        image = np.full((128, 128, 3), 100 + self.count, np.uint8)
        return {"images": {"scene": image, "wrist": image}, "states": raw_obs, "task_description": task["name"]}

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        return {"success": self.count >= self.steps}

    def get_hold_action(self, last_action: dict[str, Any] | None) -> dict[str, Any]:
        return {"actions": np.zeros(7, np.float32)}

    def get_action_spec(self) -> dict[str, DimSpec]:
        return {"position": POSITION_DELTA, "rotation": ROTATION_AA, "gripper": GRIPPER_CLOSE_POS}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        return {"scene": IMAGE_RGB, "wrist": IMAGE_RGB, "state": DimSpec("state", 7, "eef_pos3_axisangle3_gripper1"),
                "language": LANGUAGE}  # fmt: skip
