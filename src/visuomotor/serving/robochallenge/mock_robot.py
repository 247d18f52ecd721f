"""A make-believe robot for the mock platform: it follows chunks in time, refuses wild ones, and has cameras."""

import io
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from visuomotor.serving.robochallenge.conventions import Convention

__all__ = ["MockRobot"]

MOST_ACTIONS = 1000
STEP = {"position": 0.1, "rotation": 0.8, "joint": 0.5, "gripper": np.inf}  # largest change from action to action
REACH = 1.5  # m
COLOURS = ((196, 208, 220), (220, 206, 190), (204, 220, 196))


class MockRobot:
    """Speaks one convention. Time runs `speed` times as fast as on a robot.

    Its arms stand at home; `width` is how many numbers it has (UR5 in the first generation: 7 or 8).
    """

    def __init__(self, convention: Convention, *, width: int | None = None, speed: float = 1.0) -> None:
        turn = convention.rotations[0] if width is None else width // convention.arms - 4
        if not convention.joints and turn not in convention.rotations:
            raise ValueError(
                f"{convention.robot} has {[convention.arms * (4 + r) for r in convention.rotations]} numbers."
            )
        self.convention, self.speed = convention, speed
        kinds = ["joint"] * 6 if convention.joints else ["position"] * 3 + ["rotation"] * turn
        self.kinds = np.array([*kinds, "gripper"] * convention.arms)
        home = (
            [0.1 * i for i in range(6)]
            if convention.joints
            else [0.3, 0.0, 0.2, *([0.0] * (turn - 1)), float(turn == 4)]
        )
        self.numbers = np.array([*home, 100.0 if convention.robot == "ur5" else 0.05] * convention.arms)
        self._quaternions = (self.kinds == "rotation") & (turn == 4)
        self.received: list[np.ndarray] = []
        self._queue: deque[tuple[float, np.ndarray]] = deque()
        self._hashes: set[str] = set()

    @property
    def pending(self) -> int:
        """Actions that are still to be executed."""
        self._advance()
        return len(self._queue)

    def refusal(self, actions: Any, duration: Any, action_type: str) -> str | None:
        """Why a chunk is refused; None when it may be executed."""
        if action_type != self.convention.type:
            return f"action_type must be {self.convention.type!r} throughout the job, got {action_type!r}"
        if not isinstance(duration, int | float) or not 0 < duration <= 10:
            return f"duration must be seconds between 0 and 10, got {duration!r}"
        try:
            chunk = np.array(actions, np.float64)
        except (TypeError, ValueError):
            return "actions must be lists of numbers of equal length"
        if chunk.ndim != 2 or chunk.shape[1] != len(self.numbers) or not 0 < len(chunk) <= MOST_ACTIONS:
            return f"expected 1 to {MOST_ACTIONS} actions of {len(self.numbers)} numbers, got shape {list(chunk.shape)}"
        if not np.isfinite(chunk).all():
            return "actions must be finite"
        return self._wild(chunk)

    def execute(self, actions: Any, duration: float, name: str) -> bool:
        """Queue a chunk that is not refused; False when it is known by its hash already."""
        if name in self._hashes:
            return False
        self._hashes.add(name)
        self.received.append(np.array(actions, np.float64))
        begin = max(time.monotonic(), self._queue[-1][0] if self._queue else 0.0)
        self._queue.extend((begin + (i + 1) * duration / self.speed, a) for i, a in enumerate(self.received[-1]))
        return True

    def state(self, cameras: Sequence[str], width: int, height: int) -> dict[str, Any]:
        """What the state's pickle holds."""
        pending = self.pending
        images = {name: self._picture(n, name, width, height) for n, name in enumerate(cameras)}
        return {
            "state": "normal",
            "timestamp": time.time(),
            "pending_actions": pending,
            "action": self.numbers.tolist(),
            "images": images,
        }

    def _advance(self) -> None:
        while self._queue and self._queue[0][0] <= time.monotonic():
            self.numbers = self._queue.popleft()[1]

    def _wild(self, chunk: np.ndarray) -> str | None:
        """Why a finite chunk of the right shape is beyond the robot's limits."""
        self._advance()
        steps = np.abs(np.diff(np.vstack([self.numbers, chunk]), axis=0))
        quaternions = self._quaternions
        if quaternions.any():
            parts = chunk[:, quaternions].reshape(len(chunk), -1, 4)
            if (np.abs(np.linalg.norm(parts, axis=-1) - 1) > 0.01).any():
                return "a quaternion is not of unit length"
        for kind, most in STEP.items():
            places = (self.kinds == kind) & ~quaternions
            if places.any() and steps[:, places].max() > most:
                return f"a step of {steps[:, places].max():.3g} is too large for a {kind}; the most is {most}"
        if np.abs(chunk[:, self.kinds == "position"]).max(initial=0.0) > REACH:
            return f"a position lies beyond the robot's reach of {REACH} m"
        return None

    def _picture(self, index: int, name: str, width: int, height: int) -> bytes:
        """A table with the hand over it, as a PNG."""
        picture = Image.new("RGB", (width, height), COLOURS[index % len(COLOURS)])
        pen, side = ImageDraw.Draw(picture), min(width, height)
        for arm, numbers in enumerate(np.split(self.numbers, self.convention.arms)):
            x, y = (0.5 + 0.4 * np.tanh(numbers[:2])) * (width, height)
            reach = side * 0.04
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(200, 60, 60) if arm == 0 else (60, 60, 200))
        pen.text((4, 4), name, fill=(40, 40, 40))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
