"""One robot of the platform: its clock, its state and pictures, and where chunks go."""

import io
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from visuomotor.serving.robochallenge.connection import Connection, PlatformError, short
from visuomotor.serving.robochallenge.unpickling import loads

__all__ = ["Robot", "RobotState"]

CLOCK_SAMPLES = 10
MOST_PIXELS = 4096 * 4096


@dataclass(frozen=True, kw_only=True)
class RobotState:
    """A robot at one moment: `state` normal, fault, abnormal or size_none; `timestamp` in the platform's clock, s.

    pending_actions: how many it has yet to execute. action: its numbers on the wire. images: {camera: PNG}.
    """

    state: str
    timestamp: float = 0.0
    pending_actions: int = 0
    action: tuple[float, ...] = ()
    images: dict[str, bytes] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether a chunk may be sent."""
        return self.state == "normal" and self.pending_actions == 0

    def picture(self, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded picture of a camera; PlatformError when it is missing, damaged or absurdly large."""
        if camera not in self.images:
            raise PlatformError(f"The robot sent no picture of {camera!r}; it sent {', '.join(self.images) or 'none'}.")
        try:
            with Image.open(io.BytesIO(self.images[camera]), formats=["PNG"]) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise PlatformError(f"The picture of {camera!r} is {picture.width} x {picture.height}; refused.")
                return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise PlatformError(f"The picture of {camera!r} is not a whole PNG: {error}") from error

    @classmethod
    def parse(cls, value: Any) -> "RobotState":
        """What the platform's pickle held; PlatformError when a field is missing or of another type."""
        if not isinstance(value, dict) or not isinstance(value.get("state"), str):
            raise PlatformError(f"Expected a dictionary with a state; the robot sent {short(value)}.")
        if value["state"] != "normal":  # the rest may be missing then
            return cls(state=value["state"])
        action, images = value.get("action"), value.get("images")
        if not isinstance(action, list | tuple) or not all(_is_number(v) for v in action):
            raise PlatformError(f"Expected the robot's numbers as action; the robot sent {short(action)}.")
        if not isinstance(images, dict) or not all(isinstance(v, bytes | bytearray) for v in images.values()):
            raise PlatformError(f"Expected images as {{camera: PNG}}; the robot sent {short(images)}.")
        return cls(
            state="normal",
            timestamp=_number(value, "timestamp", "the state"),
            pending_actions=int(_number(value, "pending_actions", "the state")),
            action=tuple(float(v) for v in action),
            images={str(name): bytes(png) for name, png in images.items()},
        )


class Robot:
    """One robot of the platform. Its action_type stays what it is for the whole job.

    Raises (every method):
        PlatformError: no usable answer after all attempts. Refused: the answer is no.
    """

    def __init__(self, connection: Connection, robot_id: str, action_type: str) -> None:
        self.connection, self.action_type = connection, action_type
        self.path = f"/robots/{quote(robot_id, safe='')}/direct"

    def clock_offset(self) -> float:
        """Seconds by which the platform's clock is ahead of ours: the mean of ten samples, each at its middle."""
        samples = []
        for _ in range(CLOCK_SAMPLES):
            before = time.time()
            answer = self.connection.get_mapping(f"{self.path}/clock-sync")
            middle = (before + time.time()) / 2
            samples.append(_number(answer, "timestamp", "clock-sync") - middle)
        return float(np.mean(samples))

    def state(self, cameras: Sequence[str], width: int, height: int) -> RobotState:
        """What the robot reports now, with pictures of these cameras in this size."""
        path = f"{self.path}/state.pkl"
        content = self.connection.get(
            path, width=width, height=height, image_type=list(cameras), action_type=self.action_type
        )
        try:
            return RobotState.parse(loads(content))
        except ValueError as error:
            raise PlatformError(f"GET {path}: {error}") from error

    def act(self, actions: Float[np.ndarray, "n w"], duration: float) -> None:
        """Send a chunk, once: whether one that got no answer has arrived, the robot's next state will say."""
        if not np.isfinite(actions).all():
            raise ValueError("A chunk with NaN or infinite numbers is not sent.")
        contents = {"actions": actions.tolist(), "duration": duration}
        name = {"hash": str(uuid.uuid4()), "action_type": self.action_type}
        self.connection.post(f"{self.path}/action", contents, attempts=1, **name)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | np.complexfloating) or not isinstance(value, int | float | np.number):
        return False
    return isinstance(value, float | np.number) or abs(value) < 2**63


def _number(values: Mapping[str, Any], name: str, what: str) -> float:
    value = values.get(name)
    if not _is_number(value) or not np.isfinite(float(value)):  # type: ignore[arg-type]
        raise PlatformError(f"Expected a number as {name} of {what}; the platform sent {short(value)}.")
    return float(value)  # type: ignore[arg-type]
