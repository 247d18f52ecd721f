"""A robot that is a point on a line: its action is the way of the next tenth of a second."""

from collections.abc import Callable
from typing import Any

import numpy as np
from visuomotor_client.chunking import ChunkRequest


def component(name: str, kind: str, size: int = 1, **other: Any) -> dict[str, Any]:
    """A component of an embodiment's JSON."""
    dims = [f"{name}{i}" for i in range(size)]
    return {"name": name, "dims": dims, "kind": kind, "unit": "m", "reference": "absolute", **other}


ROBOT: dict[str, Any] = {
    "name": "point",
    "control_hz": 10.0,
    "state": [component("x", "position")],
    "action": [component("x", "position", reference="step", low=[-5.0], high=[5.0])],
}


class PointRobot:
    def __init__(self) -> None:
        self.x = 0.0
        self.moves: list[float] = []

    def state(self) -> np.ndarray:
        return np.array([self.x], np.float32)

    def observe(self) -> float:
        return self.x

    def act(self, command: np.ndarray) -> None:
        self.moves.append(float(command[0]))
        self.x += float(command[0])


def planned(horizon: int) -> Callable[[float, ChunkRequest | None], np.ndarray]:
    """A policy that always goes one ahead."""
    return lambda x, request: np.ones((horizon, 1))
