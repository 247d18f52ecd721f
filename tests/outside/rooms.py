"""A world of one's own: a disc in a room seen from above, two coloured tiles, and a sentence that names one of them.

    visuomotor collect rooms.py:WORLD --out demonstrations

Nothing of it is known to the library. `BARE` is the same world without demonstrator and annotations, as benchmarks are.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from visuomotor.contract import Annotation, Camera, Component, Embodiment, Scenario
from visuomotor.simulation.interface import Environment, WorldSpec

SIDE, SIZE = 32, 3  # pixels of the picture, half the width of what stands in it
COLOURS = {"red": (230, 40, 40), "blue": (40, 60, 230)}
DISC = (240, 240, 60)
PLACE = Component(name="place", dims=("x", "y"), kind="position", unit="room", low=(0.0, 0.0), high=(1.0, 1.0))
ROBOT = Embodiment(
    name="disc",
    control_hz=5.0,
    cameras=(Camera(name="ceiling", role="scene", height=SIDE, width=SIDE),),
    state=(PLACE,),
    action=(replace(PLACE, name="move", low=(-0.1, -0.1), high=(0.1, 0.1), reference="step"),),
)


def pixel(place: np.ndarray) -> np.ndarray:
    return np.clip(np.round(place * (SIDE - 1)), SIZE, SIDE - 1 - SIZE).astype(int)


class Rooms(Environment):
    name, embodiment, max_steps = "rooms", ROBOT, 30
    action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)

    def __init__(self, near: float = 0.08) -> None:
        self.near = near

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        scenario: Scenario = (options or {})["scenario"]
        self.task, self.steps = scenario.task, 0
        self.instruction = scenario.instruction or sentence(scenario.task)
        draw = np.random.default_rng(scenario.seed)
        self.place = draw.uniform(0.4, 0.6, 2).astype(np.float32)
        corners = np.array([(0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8)])[draw.permutation(4)[: len(COLOURS)]]
        self.tiles = dict(zip(COLOURS, corners, strict=True))
        return self.state(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + np.clip(action, -0.1, 0.1), 0, 1).astype(np.float32)
        self.steps += 1
        success = bool(np.abs(self.tiles[self.task] - self.place).max() < self.near)
        return self.state(), float(success), success, self.steps >= self.max_steps, {"success": success}

    def state(self) -> np.ndarray:
        return self.place.copy()

    def images(self, cameras: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
        for place, colour in [*((self.tiles[name], COLOURS[name]) for name in COLOURS), (self.place, DISC)]:
            x, y = pixel(place)
            picture[y - SIZE : y + SIZE + 1, x - SIZE : x + SIZE + 1] = colour
        return {"ceiling": picture}


class Walker:
    """Goes straight to the tile, in large or small steps."""

    def __init__(self, room: Rooms, generator: np.random.Generator) -> None:
        self.room, self.pace = room, generator.uniform(0.06, 0.1)
        self.subtask = f"cross to the {room.task} tile"

    def act(self) -> np.ndarray:
        return np.clip(self.room.tiles[self.room.task] - self.room.place, -self.pace, self.pace).astype(np.float32)


def annotate(room: Rooms) -> Annotation:
    boxes = {}
    for name, place in room.tiles.items():
        low, high = (pixel(place) + side for side in (-SIZE, SIZE))
        x1, y1, x2, y2 = (int(1000 * value / (SIDE - 1)) for value in (*low, *high))
        boxes[f"{name} tile"] = (x1, y1, x2, y2)
    x, y = (int(1000 * value) for value in np.clip(room.place, 0, 1))
    return Annotation(
        subtask="",
        boxes={"ceiling": boxes},
        point={"ceiling": (x, y)},
        progress=0.0,
        gripper_switch=False,
        contact=False,
    )


def sentence(task: str) -> str:
    return f"go to the {task} tile"


def sentences() -> list[str]:
    return [sentence(task) for task in COLOURS]


def scenarios(split: str, count: int, seed: int, tasks: Sequence[str] = tuple(COLOURS)) -> list[Scenario]:
    return [
        Scenario(environment="rooms", task=tasks[i % len(tasks)], seed=10_000 * seed + i, split=split)
        for i in range(count)
    ]


WORLD = WorldSpec(
    name="rooms",
    make=lambda near=0.08: Rooms(near),
    scenarios=scenarios,
    robot=ROBOT,
    sentences=sentences,
    demonstrator=Walker,
    annotator=annotate,
    demo={"minutes": 1, "demonstrations": 4, "action_noise": 0.0},
)
BARE = replace(WORLD, make=Rooms, demonstrator=None, annotator=None)
