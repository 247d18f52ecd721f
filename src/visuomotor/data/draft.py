"""Draft the embodiment of a data set that somebody else recorded, and ask for what its numbers cannot tell.

Names, shapes and rate come from info.json, the rest is read off the numbers. Everything that is assumed and not
written in the data set becomes a question; nothing is assumed silently.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visuomotor.codec import encode
from visuomotor.data.conventions import FACTORS, motion_evidence, switches
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.lerobot.layout import ACTION, STATE
from visuomotor.embodiment import Camera, Component, Embodiment, Kind
from visuomotor.joint_limits import JOINT_LIMITS, JointLimits

__all__ = ["draft_embodiment"]

_POSITION = re.compile(r"^(?:x|y|z)$")
_ROTATION = re.compile(r"^(?:roll|pitch|yaw|rx|ry|rz|wx|wy|wz|ax|ay|az|rot\d?|euler\w*|axisangle\d?)$")
_QUATERNION = re.compile(r"^(?:qx|qy|qz|qw|quat\w*)$")
_GRIPPER = re.compile(r"gripper|claw|finger|grasp|jaw")
_JOINT = re.compile(r"joint|shoulder|elbow|wrist|waist|forearm|upperarm|^j\d+$|^motor_?\d+$|_(?:pan|lift|flex|roll)$")
_NOISE = re.compile(
    r"^(?:eef|ee|tcp|end_effector|delta|d|translation|position|pos|rotation|rot|main|action|state)[._-]?", re.I
)
_WRIST = re.compile(r"wrist|hand|gripper|eye_in|arm", re.I)
_LARGEST_STEP = 0.2  # metres; no arm moves further in one control step
_SIDE = re.compile(r"(?:^|[._-])(left|right)(?=[._-]|$)", re.I)


@dataclass(frozen=True, kw_only=True)
class _Dimension:
    """One number of a vector: its name, what it seems to be, and which arm it belongs to ("" for the only one)."""

    name: str
    kind: Kind
    rotation: str | None = None
    side: str = ""


def draft_embodiment(dataset: EpisodeSource) -> tuple[dict[str, Any], list[str]]:
    """(draft, questions) of a `visuomotor.data.lerobot.Dataset`.

    The draft is the JSON of an `Embodiment`; each question names the field that it decides and
    what the draft assumes. Raises ValueError when there is no action to describe.
    """
    if ACTION not in dataset.columns:
        raise ValueError(
            f"{dataset.root} has no column {ACTION!r} but {', '.join(sorted(dataset.columns))}: without actions there "
            f"is no robot to describe. Rename the column that holds them."
        )
    episodes = [dataset.episode_slice(e) for e in range(dataset.num_episodes)]
    questions: list[str] = []
    if not dataset.robot_type:
        questions.append("name: info.json names no robot_type; the draft says 'unknown_robot'. Which robot is it?")
    state = _components(dataset, STATE, episodes, questions) if STATE in dataset.columns else ()
    if not state:
        questions.append(f"state: there is no column {STATE!r}; is the robot's state recorded under another name?")
    action = _components(dataset, ACTION, episodes, questions)
    action = tuple(_with_reference(dataset, c, action, state, episodes, questions) for c in action)
    draft = Embodiment(
        name=dataset.robot_type or "unknown_robot",
        control_hz=float(dataset.fps),
        cameras=_cameras(dataset, questions),
        state=state,
        action=action,
    )
    return encode(draft), questions


def _cameras(dataset: EpisodeSource, questions: list[str]) -> tuple[Camera, ...]:
    cameras, used = [], dict[str, int]()
    for name in dataset.cameras:
        guess = "wrist" if _WRIST.search(name) else "scene"
        used[guess] = used.get(guess, 0) + 1
        role = guess if used[guess] == 1 else f"{guess}_{used[guess]}"
        height, width = dataset.image_size(name)
        cameras.append(Camera(name=name, role=role, height=height, width=width))
    if cameras:
        roles = ", ".join(f"{c.name!r} is {c.role!r}" for c in cameras)
        questions.append(
            f"cameras: roles are guessed from the names: {roles}. Does each see what its role says? Keep the order "
            f"and the roles of the policy you start from."
        )
    else:
        questions.append("cameras: the data set has no pictures; is that intended?")
    return tuple(cameras)


def _names(dataset: EpisodeSource, column: str) -> list[str] | None:
    """Names of a vector's dimensions; info.json has a list, or a dictionary that holds one."""
    names = dataset.feature(column).get("names")
    while isinstance(names, dict):
        values = list(names.values())
        names = values[0] if len(values) == 1 else list(names) if len(names) > 1 else None
    width = dataset.columns[column].shape[1]
    flat = isinstance(names, list) and all(isinstance(n, str) for n in names) and len(names) == width
    return list(names) if flat and names else None


def _dimension(name: str) -> _Dimension:
    found = _SIDE.search(name)
    side = found.group(1).lower() if found else ""
    plain = _SIDE.sub("", name).lower().strip("._- ")
    plain = re.sub(r"[._](?:pos|position|value|angle)$", "", plain)
    bare = plain
    while (shorter := _NOISE.sub("", bare)) != bare and shorter:
        bare = shorter
    if _GRIPPER.search(plain):
        return _Dimension(name=name, kind="gripper", side=side)
    if _POSITION.match(bare):
        return _Dimension(name=name, kind="position", side=side)
    if _QUATERNION.match(bare):
        return _Dimension(name=name, kind="rotation", rotation="quat_xyzw", side=side)
    if _ROTATION.match(bare):
        axis_angle = bare[0] in "rwa" and bare != "roll"
        return _Dimension(name=name, kind="rotation", rotation="axis_angle" if axis_angle else "euler_xyz", side=side)
    if _JOINT.search(plain):
        return _Dimension(name=name, kind="joint", side=side)
    return _Dimension(name=name, kind="other", side=side)


def _components(
    dataset: EpisodeSource, column: str, episodes: list[slice], questions: list[str]
) -> tuple[Component, ...]:
    """Neighbouring dimensions of one kind and side become a component."""
    values = np.asarray(dataset.columns[column], np.float64)
    names = _names(dataset, column)
    if names is None:
        return (_unnamed(column, values, questions),)
    groups: list[list[_Dimension]] = []
    for dimension in map(_dimension, names):
        last = groups[-1][-1] if groups else None
        alike = last is not None and (last.kind, last.side) == (dimension.kind, dimension.side)
        if alike and last is not None and last.rotation == dimension.rotation and dimension.kind != "gripper":
            groups[-1].append(dimension)
        else:
            groups.append([dimension])
    components, start, taken = [], 0, dict[str, int]()
    for group in groups:
        part = values[:, start : start + len(group)]
        component = _component(column, group, part, episodes, questions)
        taken[component.name] = taken.get(component.name, 0) + 1
        if taken[component.name] > 1:
            component = replace(component, name=f"{component.name}_{taken[component.name]}")
        components.append(component)
        start += len(group)
    return tuple(components)


def _unnamed(column: str, values: np.ndarray, questions: list[str]) -> Component:
    width = values.shape[1]
    ranges = ", ".join(f"{d}: {np.nanmin(values[:, d]):.4g} to {np.nanmax(values[:, d]):.4g}" for d in range(width))
    two = [str(d) for d in range(width) if _two_valued(values[:, d])]
    hint = (
        f" Dimension {' and '.join(two)} is nearly always at one of two ends, as a gripper command is." if two else ""
    )
    questions.append(
        f"{column}: info.json does not name its {width} dimensions, so the draft keeps them in one component. "
        f"What are they (position, rotation, joints, gripper), in which units? Ranges {ranges}.{hint}"
    )
    dims = tuple(str(d) for d in range(width))
    return Component(name="unnamed", dims=dims, kind="other", unit="unknown", normalization="quantile")


def _two_valued(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    share = (values - low) / (high - low) if high > low else np.full(1, 0.5)
    return bool(((share < 0.1) | (share > 0.9)).mean() > 0.9)


def _component(
    column: str, group: list[_Dimension], values: np.ndarray, episodes: list[slice], questions: list[str]
) -> Component:
    kind, side = group[0].kind, group[0].side
    label = f"{side}_{kind}" if side else kind
    dims, where = tuple(d.name for d in group), f"{column}.{label}"
    finite = values[np.isfinite(values).all(1)]
    reach = float(np.abs(finite).max()) if len(finite) else 0.0
    if kind == "gripper":
        return _gripper(column, label, dims, values[:, 0], episodes, questions)
    rotation = group[0].rotation
    if kind == "other":
        questions.append(f"{where}: what are {', '.join(dims)}? Their names tell neither kind nor unit.")
        return Component(name=label, dims=dims, kind=kind, unit="unknown")
    if kind == "position":
        unit = "mm" if reach > 10 else "m"
        questions.append(f"{where}: in the base frame and in {unit}? The largest value is {reach:.4g}.")
    elif rotation == "quat_xyzw":
        unit = "quaternion"
        questions.append(f"{where}: is the quaternion's order x, y, z, w as the draft says ({', '.join(dims)})?")
    else:
        unit = "deg" if reach > 2 * np.pi * 1.05 else "rad"
        other = next((name for _, name in FACTORS[unit]), "")
        questions.append(
            f"{where}: the largest value is {reach:.4g}, so the draft assumes {unit}, not {other}. Is that right, or "
            f"are these motor units (such as -100 to 100)?"
        )
        if rotation is not None:
            questions.append(
                f"{where}: is the rotation {rotation} as the draft says? {', '.join(dims)} could also be "
                f"{'euler angles' if rotation == 'axis_angle' else 'an axis-angle vector or another Euler order'}."
            )
    return Component(name=label, dims=dims, kind=kind, unit=unit, rotation=rotation)


def _gripper(
    column: str, label: str, dims: tuple[str, ...], values: np.ndarray, episodes: list[slice], questions: list[str]
) -> Component:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if high - low < 1e-6:
        high = low + 1.0
    first = switches((values - low) / (high - low), episodes)  # +1 rises first
    rises = len(first) == 0 or (first > 0).mean() >= 0.5
    opened, closed = (low, high) if rises else (high, low)
    evidence = (
        f"in {int(max((first > 0).sum(), (first < 0).sum()))} of {len(first)} episodes its first change goes that way"
        if len(first)
        else "it never changes decisively, so this is a coin toss"
    )
    questions.append(
        f"{column}.{label}: which value is open? The draft assumes opened = {opened:.4g} and closed = {closed:.4g}, "
        f"the ends of its range, because a robot usually comes open and then closes ({evidence})."
    )
    return Component(
        name=label,
        dims=dims,
        kind="gripper",
        unit="recorded",
        low=(low,),
        high=(high,),
        normalization="limits",
        opened=opened,
        closed=closed,
    )


def _with_reference(
    dataset: EpisodeSource,
    component: Component,
    action: tuple[Component, ...],
    state: tuple[Component, ...],
    episodes: list[slice],
    questions: list[str],
) -> Component:
    """The component with the reference that its numbers show, and a question about it and about its limits."""
    if component.kind == "gripper":
        return component
    actions, states = _values(dataset, ACTION, action, component), None
    alike = [c for c in state if c.kind == component.kind and len(c.dims) == len(component.dims)]
    match = next((c for c in alike if c.name == component.name), alike[0] if len(alike) == 1 else None)
    looks: list[str] = []
    if match is not None:
        states = _values(dataset, STATE, state, match)
        motions = [motion_evidence(actions[:, d], states[:, d], episodes) for d in range(actions.shape[1])]
        looks = [m.looks for m in motions if m is not None and m.looks is not None]
    where = f"{ACTION}.{component.name}"
    reference = "step" if looks and looks.count("step") > len(looks) / 2 else "absolute"
    evidence = (
        f"{looks.count(reference)} of {len(component.dims)} dimensions move like that"
        if looks
        else "nothing in the numbers shows it: no state of the same kind to compare with, or it hardly moves"
    )
    questions.append(
        f"{where}: is an action an absolute target or a difference per step? The draft says {reference!r} ({evidence})."
    )
    reach = np.nanmax(np.abs(actions))
    if reference == "step" and component.kind == "position" and reach > _LARGEST_STEP:
        questions.append(
            f"{where}: steps go up to {reach:.4g}, too much for metres; what does 1 mean (metres per step)? The draft "
            f"leaves the unit open."
        )
        component = replace(component, unit="unknown")
    component = replace(component, reference=reference)
    limits = JOINT_LIMITS.get(dataset.robot_type or "")
    if limits is not None and reference == "absolute" and _fits(limits, component, actions):
        questions.append(
            f"{where}: are low, high and velocity those of your {dataset.robot_type}? The draft has them from "
            f"{limits.source}."
        )
        return limits.applied(component)
    questions.append(f"{where}: which limits (low, high) does the robot accept? The draft leaves them open.")
    return component


def _fits(limits: JointLimits, component: Component, values: np.ndarray) -> bool:
    """Whether a component is an arm with these limits: as many joints, in radians, and recorded within the ranges."""
    if component.kind != "joint" or component.unit != "rad" or len(component.dims) != len(limits.low):
        return False
    finite = values[np.isfinite(values).all(1)]
    return bool(((finite >= np.array(limits.low) - 0.01) & (finite <= np.array(limits.high) + 0.01)).all())


def _values(dataset: EpisodeSource, column: str, components: tuple[Component, ...], wanted: Component) -> np.ndarray:
    start = 0
    for component in components:
        if component is wanted:
            break
        start += len(component.dims)
    return np.asarray(dataset.columns[column], np.float64)[:, start : start + len(wanted.dims)]
