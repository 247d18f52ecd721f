"""What may differ between scenarios beyond the task: objects in view, their places, and optional domain variation.

Everything is drawn from the scenario's seed; each kind of variation has its own stream, so switching one on leaves
all others as they were.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from visuomotor.simulation.tabletop.arm import HOME, WORKSPACE_HIGH, WORKSPACE_LOW
from visuomotor.simulation.tabletop.objects import Object
from visuomotor.simulation.tabletop.scene import BOWLS, CABINET, DRAWER_TRAVEL
from visuomotor.simulation.tabletop.taskspec import TaskSpec, get_vocabulary

__all__ = ["Layout", "Variation", "sample_layout", "sample_start", "vary_model"]

AREA = ((-0.12, 0.12), (-0.17, 0.0))  # where objects start: x and y ranges
WIDE_AREA = ((-0.17, 0.17), (-0.19, 0.01))  # with more than three objects
DRAWER_AREA = ((-0.16, 0.16), (-0.19, -0.065))  # clear of an open drawer
RELATION_AREA = ((-0.15, 0.15), (-0.145, -0.04))  # leaves room to push one object behind another
CLEARANCE = 0.072  # between an object's centre and another's edge, so that open fingers fit in between
ARM_CLEARANCE = 0.11  # between a low hand and the centre of a thing
_STREAMS = ("layout", "lighting", "background", "camera", "start")


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Domain variation of the tabletop; all of it is off by default but for small jitters.

    `distractors`: objects beside those that the task names; `initial_pose`: half range of the end-effector's start
    around home, m; `anywhere`: share of the starts where it stands anywhere above the table instead, open or closed,
    as after a failed attempt; `furniture`: half range of the furniture's places, m; `object_yaw`: objects stand turned.
    """

    distractors: int = 2
    lighting: bool = False
    background: bool = False
    camera_pose: bool = False
    object_yaw: bool = False
    initial_pose: float = 0.03
    anywhere: float = 0.0
    furniture: float = 0.006

    def __post_init__(self) -> None:
        if not 0 <= self.distractors <= 6:
            raise ValueError(f"distractors is {self.distractors}; the table has room for 0 to 6.")
        if not 0 <= self.initial_pose <= 0.08 or not 0 <= self.furniture <= 0.015:
            raise ValueError(
                f"initial_pose is {self.initial_pose} m and furniture {self.furniture} m; "
                "they may be at most 0.08 m and 0.015 m."
            )
        if not 0 <= self.anywhere <= 1:
            raise ValueError(f"anywhere is {self.anywhere}; it is a share of the starts, 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A start: objects with their places [n, 2] and yaws [n], furniture places, end-effector place, drawer opening."""

    objects: tuple[Object, ...]
    places: np.ndarray
    yaws: np.ndarray
    bowls: dict[str, np.ndarray]
    cabinet: np.ndarray
    eef: np.ndarray
    drawer: float


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of one kind of variation."""
    return np.random.default_rng([seed, _STREAMS.index(name)])


def sample_layout(spec: TaskSpec, vocabulary: str, variation: Variation, rng: np.random.Generator) -> Layout:
    """Objects and places for a task. Distractors tend to share the goal's colour or shape, so both words matter."""
    objects = _sample_objects(spec, vocabulary, variation.distractors, rng)
    order = rng.permutation(len(objects))
    radii, area = [o.geometry.radius for o in objects], _area(spec, len(objects))
    places = _sample_places(radii, area, rng)
    while spec.reference is not None and _related(spec, places[0] - places[1]):
        places = _sample_places(radii, area, rng)
    turn = rng.uniform(-np.pi / 4, np.pi / 4, len(objects)) * variation.object_yaw
    shift = rng.uniform(-variation.furniture, variation.furniture, (3, 2))
    eef = HOME + rng.uniform(-1, 1, 3) * variation.initial_pose * np.array([1.0, 1.0, 0.6])
    return Layout(
        objects=tuple(objects[k] for k in order),
        places=places[order],
        yaws=turn,
        bowls={name: np.array(place) + shift[k] for k, (name, place) in enumerate(BOWLS.items())},
        cabinet=np.array(CABINET) + shift[2],
        eef=eef,
        drawer=DRAWER_TRAVEL if _starts_open(spec) else 0.0,
    )


def sample_start(layout: Layout, anywhere: float, seed: int) -> tuple[np.ndarray, float]:
    """Where the end-effector starts, m, and its opening 0-1: near home and open, or anywhere that touches nothing."""
    rng = stream(seed, "start")
    if rng.random() >= anywhere:
        return layout.eef, 1.0
    place = rng.uniform(WORKSPACE_LOW + np.array([0.0, 0.0, 0.02]), WORKSPACE_HIGH)
    things = [*layout.places, *layout.bowls.values()]
    if place[1] > 0.08 or min(np.linalg.norm(place[:2] - thing) for thing in things) < ARM_CLEARANCE:
        place[2] = max(place[2], 0.13)
    return place, float(rng.random() < 0.7)


def vary_model(model: Any, original: Any, variation: Variation, seed: int) -> None:
    """Draw lighting, colours and the camera pose into `model`; whatever is off is restored from `original`."""
    model.light_dir[:], model.light_diffuse[:] = original.light_dir, original.light_diffuse
    model.vis.headlight.ambient[:] = original.vis.headlight.ambient
    if variation.lighting:
        rng = stream(seed, "lighting")
        direction = original.light_dir[0] + np.append(rng.uniform(-0.5, 0.5, 2), 0.0)
        model.light_dir[0] = direction / np.linalg.norm(direction)
        model.light_diffuse[0] = original.light_diffuse[0] * rng.uniform(0.5, 1.25) * rng.uniform(0.9, 1.1, 3)
        model.vis.headlight.ambient[:] = original.vis.headlight.ambient * rng.uniform(0.75, 1.25)
    rng = stream(seed, "background")
    for name in ("table", "wall"):
        geom = original.geom(name).id
        model.geom_rgba[geom] = original.geom_rgba[geom]
        if variation.background:
            model.geom_rgba[geom, :3] = rng.uniform(0.15, 0.95) + rng.uniform(-0.15, 0.15, 3)
    camera = original.camera("scene").id
    model.cam_pos[camera], model.cam_quat[camera] = original.cam_pos[camera], original.cam_quat[camera]
    if variation.camera_pose:
        rng = stream(seed, "camera")
        model.cam_pos[camera] += rng.uniform(-0.03, 0.03, 3)
        quaternion = original.cam_quat[camera] + rng.uniform(-0.015, 0.015, 4)
        model.cam_quat[camera] = quaternion / np.linalg.norm(quaternion)


def _sample_objects(spec: TaskSpec, vocabulary: str, distractors: int, rng: np.random.Generator) -> list[Object]:
    words = get_vocabulary(vocabulary)
    objects = [Object(colour=c, shape=s) for c, s in spec.objects]
    wanted = len(objects) + distractors + (not objects)
    pool = [Object(colour=c, shape=s) for c, s in words.pairs if Object(colour=c, shape=s) not in objects]
    if objects and distractors >= 2:
        objects += _corner(objects[0], pool, rng)
    pool = [o for o in pool if o not in objects]
    return objects + [pool[k] for k in rng.permutation(len(pool))[: wanted - len(objects)]]


def _corner(goal: Object, pool: list[Object], rng: np.random.Generator) -> list[Object]:
    """Two objects that form with the goal a corner of the colour-shape table: one shares the colour of the corner's
    tip, the other its shape. The goal is the tip in a third of the scenes, else an end, so a scene never tells
    which of its objects is meant."""

    def like(other: Object, word: str, taken: tuple[Object, ...]) -> list[Object]:
        return [o for o in pool if getattr(o, word) == getattr(other, word) and o not in taken]

    first, second = rng.permutation(["colour", "shape"])
    a = like(goal, first, ())
    if not a:
        return []
    one = a[int(rng.integers(len(a)))]
    b = like(goal if rng.random() < 1 / 3 else one, second, (one,))
    return [one, b[int(rng.integers(len(b)))]] if b else [one]


def _sample_places(radii: list[float], area: Any, rng: np.random.Generator) -> np.ndarray:
    low, high = np.array(area).T
    shrink = 1.0
    while True:
        for _ in range(40):
            places: list[np.ndarray] = []
            for radius in radii:
                place = next(
                    (
                        p
                        for p in rng.uniform(low, high, (30, 2))
                        if all(
                            np.linalg.norm(p - q) >= shrink * (CLEARANCE + max(radius, r))
                            for q, r in zip(places, radii, strict=False)
                        )
                    ),
                    None,
                )
                if place is None:
                    break
                places.append(place)
            else:
                return np.array(places).reshape(-1, 2)
        shrink *= 0.92


def _area(spec: TaskSpec, count: int) -> Any:
    if "drawer" in spec.id:
        return DRAWER_AREA
    if spec.relation in ("push_behind", "push_beside"):
        return RELATION_AREA
    return AREA if count <= 3 else WIDE_AREA


def _related(spec: TaskSpec, offset: np.ndarray) -> bool:
    """Whether the goal object lies so near to where it should be that the task would start (almost) done."""
    x, y = abs(offset[0]), offset[1]
    if spec.relation == "push_behind":
        return bool(x < 0.06 and 0 < y < 0.15)
    return bool(spec.relation == "push_beside" and x < 0.15 and abs(y) < 0.06)


def _starts_open(spec: TaskSpec) -> bool:
    first = spec.steps[0] if spec.steps else spec
    return first.relation == "close_drawer" or first.target == "drawer"
