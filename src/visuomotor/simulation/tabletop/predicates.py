"""Exact success predicates and staged progress of every task, on simulator state.

A predicate says whether a task is done at this moment; `TaskMonitor` asks that it stays so for a few control steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from visuomotor.simulation.tabletop.scene import BOWL_HEIGHT, BOWL_RADIUS, BUTTON_TRAVEL, DRAWER_TRAVEL
from visuomotor.simulation.tabletop.state import SceneState
from visuomotor.simulation.tabletop.taskspec import TaskSpec

__all__ = ["HOLD_STEPS", "LIFT_HEIGHT", "PUSH_DISTANCE", "TaskMonitor", "done", "failed", "stages"]

HOLD_STEPS = 3  # control steps for which a predicate must hold
LIFT_HEIGHT = 0.06  # m between table and object
PUSH_DISTANCE = 0.08  # m
PUSH_LIFT = 0.03  # m; a pushed object that was higher than this was carried
BEHIND = (0.06, 0.13)  # m; how much farther from the viewer than the reference
BESIDE = (0.055, 0.13)  # m; how far to the left or right of the reference
ALIGNED = 0.045  # m; largest distance from the reference's line
DIRECTIONS = {"left": np.array([-1.0, 0.0]), "right": np.array([1.0, 0.0])}
STILL = 0.05  # m/s


def done(state: SceneState, spec: TaskSpec) -> bool:
    """Whether the task is done in this state. Sequences are judged step by step by TaskMonitor."""
    return bool(_DONE[spec.relation](state, spec))


def failed(state: SceneState, spec: TaskSpec) -> bool:
    """Whether the task cannot be done any more: an object it needs fell from the table, a pushed one was lifted."""
    if any(state.position(state.index(*pair))[2] < -0.03 for pair in spec.objects):
        return True
    return spec.relation.startswith("push") and state.bottom(state.index(spec.colour, spec.shape)) > PUSH_LIFT


def stages(state: SceneState, spec: TaskSpec) -> dict[str, float]:
    """Each stage's completion, 0-1, in order. All are 1 when the task is done."""
    names = tuple(_WEIGHTS[_family(spec)])
    if done(state, spec):
        return dict.fromkeys(names, 1.0)
    return dict(zip(names, _STAGES[_family(spec)](state, spec), strict=True))


def progress(found: dict[str, float], spec: TaskSpec) -> float:
    """One number 0-1 from the stages of a task that is no sequence."""
    return float(sum(weight * found[name] for name, weight in _WEIGHTS[_family(spec)].items()))


@dataclass(kw_only=True)
class TaskMonitor:
    """Follows one task over the control steps of an episode."""

    spec: TaskSpec
    success: bool = False
    failed: bool = False
    progress: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    step: int = 0  # index of the present step of a sequence
    _held: int = 0

    @property
    def steps(self) -> tuple[TaskSpec, ...]:
        return self.spec.steps or (self.spec,)

    @property
    def current(self) -> TaskSpec:
        """The step that is to be done now."""
        return self.steps[min(self.step, len(self.steps) - 1)]

    def update(self, state: SceneState, moved: bool = True) -> None:
        """Look at the state after a control step (`moved=False`: at the start of an episode, where nothing counts)."""
        if moved and not self.success:
            kept = all(done(state, s) for s in self.steps[: self.step] if s.relation in ("put_in", "put_on"))
            self._held = self._held + 1 if kept and done(state, self.current) else 0
            if self._held >= HOLD_STEPS:
                self.step, self._held = self.step + 1, 0
                self.success = self.step == len(self.steps)
            self.failed = not self.success and any(failed(state, s) for s in self.steps)
        here = 0.0
        for k, spec in enumerate(self.steps):
            found = dict.fromkeys(_WEIGHTS[_family(spec)], float(k < self.step))
            if k == self.step:
                found = stages(state, spec)
                here = progress(found, spec)
            prefix = f"{k + 1}. " if self.spec.steps else ""
            self.stages.update({prefix + name: value for name, value in found.items()})
        self.progress = 1.0 if self.success else min(0.99, (self.step + here) / len(self.steps))


def _goal(state: SceneState, spec: TaskSpec) -> int:
    return state.index(spec.colour, spec.shape)


def _lifted(state: SceneState, spec: TaskSpec) -> bool:
    goal = _goal(state, spec)
    return state.bottom(goal) >= LIFT_HEIGHT and state.holding(goal)


def _released(state: SceneState, goal: int) -> bool:
    return state.touching(goal) == 0 and state.speed(goal) < STILL


def _inside(state: SceneState, spec: TaskSpec) -> bool:
    goal, target = _goal(state, spec), str(spec.target)
    offset = state.position(goal) - state.place(target)
    if target == "drawer":
        inside = abs(offset[0]) < 0.06 and abs(offset[1]) < 0.052
    else:
        inside = float(np.hypot(offset[0], offset[1])) < 0.85 * BOWL_RADIUS
    return bool(inside) and state.bottom(goal) < BOWL_HEIGHT and _released(state, goal)


def _on_top(state: SceneState, spec: TaskSpec) -> bool:
    goal, base = _goal(state, spec), _reference(state, spec)
    offset = state.position(goal) - state.position(base)
    gap = state.bottom(goal) - (state.position(base)[2] + state.objects[base].geometry.half_height)
    return bool(np.hypot(offset[0], offset[1]) < 0.03 and abs(gap) < 0.01 and _released(state, goal))


def _pushed(state: SceneState, spec: TaskSpec) -> bool:
    goal = _goal(state, spec)
    moved = state.position(goal)[:2] - state.start[goal][:2]
    along = float(moved @ DIRECTIONS[str(spec.target)])
    return along >= PUSH_DISTANCE and abs(moved[1]) <= 0.6 * along and state.bottom(goal) < PUSH_LIFT


def _relative(state: SceneState, spec: TaskSpec) -> bool:
    goal = _goal(state, spec)
    offset = state.position(goal) - state.position(_reference(state, spec))
    x, y = abs(offset[0]), offset[1]
    if spec.relation == "push_behind":
        there = BEHIND[0] <= y <= BEHIND[1] and x <= ALIGNED
    else:
        there = BESIDE[0] <= x <= BESIDE[1] and abs(y) <= ALIGNED
    return bool(there) and state.bottom(goal) < PUSH_LIFT and state.speed(goal) < STILL


def _reference(state: SceneState, spec: TaskSpec) -> int:
    return state.index(*(spec.reference or (None, None)))


_DONE: dict[str, Callable[[SceneState, TaskSpec], bool]] = {
    "lift": _lifted,
    "put_in": _inside,
    "put_on": _on_top,
    "push": _pushed,
    "push_behind": _relative,
    "push_beside": _relative,
    "open_drawer": lambda state, spec: state.drawer_opening >= 0.85 * DRAWER_TRAVEL,
    "close_drawer": lambda state, spec: state.drawer_opening <= 0.008,
    "press_button": lambda state, spec: state.button_depth >= 0.75 * BUTTON_TRAVEL,
}

_WEIGHTS: dict[str, dict[str, float]] = {
    "lift": {"reach": 0.3, "grasp": 0.3, "lift": 0.4},
    "place": {"reach": 0.2, "grasp": 0.2, "transport": 0.4, "place": 0.2},
    "push": {"reach": 0.4, "push": 0.6},
    "fixture": {"reach": 0.4, "move": 0.6},
}


def _family(spec: TaskSpec) -> str:
    if spec.relation == "lift":
        return "lift"
    if spec.relation in ("put_in", "put_on"):
        return "place"
    return "push" if spec.relation.startswith("push") else "fixture"


def _near(distance: float, start: float) -> float:
    """1 within 2 cm of contact, 0 at the distance of the episode's start."""
    return float(np.clip(1 - (distance - 0.02) / max(start - 0.02, 0.02), 0, 1))


def _reach(state: SceneState, goal: int) -> float:
    start = float(np.linalg.norm(state.eef_start - state.start[goal]))
    return _near(float(np.linalg.norm(state.eef - state.position(goal))), start)


def _lift_stages(state: SceneState, spec: TaskSpec) -> tuple[float, ...]:
    goal = _goal(state, spec)
    if not state.holding(goal):
        return _reach(state, goal), 0.0, 0.0
    return 1.0, 1.0, float(np.clip(state.bottom(goal) / LIFT_HEIGHT, 0, 1))


def _place_stages(state: SceneState, spec: TaskSpec) -> tuple[float, ...]:
    goal = _goal(state, spec)
    target = state.place(str(spec.target)) if spec.target else state.position(_reference(state, spec))
    rest, start = (float(np.linalg.norm(p[:2] - target[:2])) for p in (state.position(goal), state.start[goal]))
    if rest < 0.05 and state.bottom(goal) - target[2] < 0.04:
        return 1.0, 1.0, 1.0, 0.0
    if not state.holding(goal):
        return _reach(state, goal), 0.0, 0.0, 0.0
    return 1.0, 1.0, _near(rest, start), 0.0


def _push_stages(state: SceneState, spec: TaskSpec) -> tuple[float, ...]:
    goal = _goal(state, spec)
    if spec.relation == "push":
        moved = float((state.position(goal) - state.start[goal])[:2] @ DIRECTIONS[str(spec.target)])
        part = moved / PUSH_DISTANCE
    else:
        target = relation_goal(state, spec)
        rest, start = (float(np.linalg.norm(p[:2] - target)) for p in (state.position(goal), state.start[goal]))
        part = _near(rest, start)
    pushed = float(np.clip(part, 0, 1))
    # The fingers stay a hand's breadth beside the object, so having moved it counts as having reached it.
    return max(_reach(state, goal), min(1.0, pushed * 10)), pushed


def relation_goal(state: SceneState, spec: TaskSpec) -> np.ndarray:
    """Where a push relative to another object should end [2]."""
    goal, base = _goal(state, spec), state.position(_reference(state, spec))[:2]
    if spec.relation == "push_behind":
        return base + np.array([0.0, 0.085])
    side = np.sign(state.position(goal)[0] - base[0]) or 1.0
    if abs(base[0] + side * 0.085) > 0.2:
        side = -side
    return base + np.array([side * 0.085, 0.0])


def _fixture_stages(state: SceneState, spec: TaskSpec) -> tuple[float, ...]:
    if spec.relation == "press_button":
        place, part = state.button_top, state.button_depth / BUTTON_TRAVEL
    else:
        opened = state.drawer_opening / DRAWER_TRAVEL
        place, part = state.handle, opened if spec.relation == "open_drawer" else 1 - opened
    moved = float(np.clip(part, 0, 1))
    start = float(np.linalg.norm(state.eef_start - place))
    return max(_near(float(np.linalg.norm(state.eef - place)), start), min(1.0, moved * 10)), moved


_STAGES: dict[str, Callable[[SceneState, TaskSpec], tuple[float, ...]]] = {
    "lift": _lift_stages,
    "place": _place_stages,
    "push": _push_stages,
    "fixture": _fixture_stages,
}
