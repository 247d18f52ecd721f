"""Scripted experts. Each call looks at the state and decides anew, so slips, misses and disturbances are recovered."""

from dataclasses import dataclass

import numpy as np

from visuomotor.simulation.tabletop.arm import STEP_ROTATION, STEP_TRANSLATION
from visuomotor.simulation.tabletop.grammar import subtasks
from visuomotor.simulation.tabletop.predicates import DIRECTIONS, TaskMonitor, relation_goal
from visuomotor.simulation.tabletop.state import SceneState
from visuomotor.simulation.tabletop.taskspec import TaskSpec

__all__ = ["Style", "TabletopExpert"]

OPEN, CLOSED = 1.0, -1.0
CLEAR = 0.09  # end-effector height at which nothing on the table is touched
PUSH_HEIGHT = 0.022
FINGER_HALF = np.array([0.012, 0.011])  # closed fingers, half width along x and y


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an expert moves: share of the top speed, hover height above the table (m), grasp offset (m)."""

    speed: float
    hover: float
    offset: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Style":
        return cls(speed=rng.uniform(0.75, 1.0), hover=rng.uniform(0.09, 0.12), offset=rng.uniform(-0.005, 0.005))


@dataclass(frozen=True, kw_only=True)
class Move:
    """Where to go next [3], with which gripper command, in which phase of the task; `speed` scales the step."""

    to: np.ndarray
    gripper: float
    phase: int
    speed: float = 1.0
    yaw: float = 0.0


class TabletopExpert:
    """Does the monitor's present step. `subtask` names the phase of the last action."""

    def __init__(self, state: SceneState, monitor: TaskMonitor, rng: np.random.Generator) -> None:
        self.state, self.monitor, self.style = state, monitor, Style.draw(rng)
        self.subtask = subtasks(monitor.current)[0]
        self._closing = 0  # calls for which the gripper has been closing on something

    def act(self) -> np.ndarray:
        """The action float32[7] for the present state."""
        spec = self.monitor.current
        move = _MOVES[spec.relation](self, spec)
        names = subtasks(spec)
        self.subtask = names[min(move.phase, len(names) - 1)]
        step = move.to - self.state.eef
        limit = STEP_TRANSLATION * self.style.speed * move.speed
        step *= min(1.0, limit / max(float(np.abs(step).max()), 1e-9))
        turn = np.zeros(3)
        turn[2] = np.clip(move.yaw - self.state.yaw, -STEP_ROTATION, STEP_ROTATION)
        turn[:2] = np.clip(-0.5 * self.state.tilt, -STEP_ROTATION, STEP_ROTATION)
        return np.array([*step, *turn, move.gripper], dtype=np.float32)

    # Grasping ---------------------------------------------------------------------------------------------------

    def _grasp(self, at: np.ndarray, clear: float, yaw: float = 0.0) -> Move:
        """Approach `at` [3] from above with open fingers and close them; `clear` is the height to travel at."""
        eef, state = self.state.eef, self.state
        at = at + np.array([0.0, self.style.offset, 0.0])
        away = float(np.hypot(*(eef - at)[:2]))
        above = np.array([at[0], at[1], max(clear, self.style.hover)])
        low = eef[2] < clear - 0.015
        if self._closing and (away > 0.02 or self._closing > 8):
            self._closing = 0 if state.opening > 0.9 else 9  # missed: open, then go up and start again
            return Move(to=eef + np.array([0, 0, 0.03 if state.opening > 0.6 else 0.0]), gripper=OPEN, phase=0)
        if away > 0.012 and (away > 0.02 or not low) and not self._closing:
            up = np.array([eef[0], eef[1], above[2]])
            return Move(to=up if low and away > 0.03 else above, gripper=OPEN, phase=0)
        if state.opening < 0.85 and not self._closing:
            return Move(to=np.array([eef[0], eef[1], max(eef[2], above[2])]), gripper=OPEN, phase=0)
        if eef[2] - at[2] > 0.008 and not self._closing:
            return Move(to=at, gripper=OPEN, phase=0, yaw=yaw)
        self._closing += 1
        return Move(to=at, gripper=CLOSED, phase=1, yaw=yaw)

    def _grasp_object(self, goal: int) -> Move:
        item = self.state.objects[goal].geometry
        at = self.state.position(goal).copy()
        at[2] = max(0.014, self.state.bottom(goal) + min(item.half_height, 0.03))
        return self._grasp(at, CLEAR, self.state.object_yaw(goal))

    def _lift(self, spec: TaskSpec) -> Move:
        goal = self.state.index(spec.colour, spec.shape)
        if not self.state.holding(goal):
            return self._grasp_object(goal)
        self._closing = 0
        return Move(to=self.state.eef + np.array([0, 0, 0.03]), gripper=CLOSED, phase=2, yaw=self.state.yaw)

    # Placing ----------------------------------------------------------------------------------------------------

    def _place(self, spec: TaskSpec) -> Move:
        state = self.state
        goal = state.index(spec.colour, spec.shape)
        if spec.reference is not None:
            base = state.index(*spec.reference)
            target = state.position(base) + np.array([0, 0, state.objects[base].geometry.half_height])
            margin, drop, rise = 0.010, 0.007, 0.045
        else:
            target = state.place(str(spec.target))
            margin, drop, rise = (0.014, 0.03, 0.095) if spec.target == "drawer" else (0.02, 0.03, 0.045)
        offset = state.position(goal)[:2] - target[:2]
        away, height = float(np.hypot(*offset)), state.bottom(goal) - target[2]
        if not state.holding(goal):
            there = away < 0.03 and abs(height) < 0.015 if spec.reference else away < 0.055 and height < 0.03
            if there:  # it lies where it should: let go of it, keep away from it
                high = max(state.eef[2], self.style.hover + 0.03) if state.touching(goal) == 0 else state.eef[2] + 0.02
                return Move(to=np.array([state.eef[0], state.eef[1], high]), gripper=OPEN, phase=4)
            return self._grasp_object(goal)
        self._closing = 0
        grip = state.eef - state.position(goal)  # the fingers hold the object off its centre
        clear = max(target[2] + rise, 0.085)  # above a standing cup
        low = height < 0.6 * rise
        if away > (1.8 * margin if low else margin):  # once low, small deviations are corrected on the way down
            above = np.array([*(target[:2] + grip[:2]), state.eef[2] + clear - state.bottom(goal)])
            if state.bottom(goal) < clear - 0.02:
                up = np.array([state.eef[0], state.eef[1], above[2]])
                near = np.clip(above - state.eef, -0.004, 0.004)
                return Move(to=up + near * np.array([1, 1, 0]), gripper=CLOSED, phase=2 if away > 0.1 else 3)
            return Move(to=above, gripper=CLOSED, phase=3)
        if height > drop:
            down = np.array([*-offset, drop - 0.003 - height])
            return Move(to=state.eef + down, gripper=CLOSED, phase=3, speed=0.7)
        return Move(to=state.eef.copy(), gripper=OPEN, phase=4)

    # Pushing ----------------------------------------------------------------------------------------------------

    def _push(self, spec: TaskSpec) -> Move:
        goal = self.state.index(spec.colour, spec.shape)
        direction = DIRECTIONS[str(spec.target)]
        start = self.state.start[goal][:2]
        return self._push_to(goal, start + 0.12 * direction, direction)

    def _push_relative(self, spec: TaskSpec) -> Move:
        """Push along x and y in turn, around the reference object where it is in the way."""
        goal, base = self.state.index(spec.colour, spec.shape), self.state.index(*(spec.reference or (None, None)))
        here, reference = self.state.position(goal)[:2], self.state.position(base)[:2]
        target = relation_goal(self.state, spec)
        across = 1 if spec.relation == "push_behind" else 0  # the axis on which the goal lies beyond the reference
        along = 1 - across
        side = here - reference
        if abs(here[across] - target[across]) > 0.015 and abs(side[along]) < 0.075:
            way = np.sign(side[along]) or 1.0
            if abs(reference[0] + way * 0.08) > 0.2 and along == 0:
                way = -way
            goto = here.copy()
            goto[along] = reference[along] + way * 0.095
        elif abs(here[across] - target[across]) > 0.015:
            goto = np.where(np.arange(2) == across, target, here)
        else:
            goto = target
        offset = goto - here
        axis = int(np.abs(offset).argmax())
        direction = np.eye(2)[axis] * (np.sign(offset[axis]) or 1.0)
        return self._push_to(goal, goto, direction)

    def _push_to(self, goal: int, target: np.ndarray, direction: np.ndarray) -> Move:
        """Push the object along `direction` (an axis) with closed fingers until it is at `target` on that axis."""
        eef, here = self.state.eef, self.state.position(goal)[:2]
        reach = self._half_width(goal, direction) + float(FINGER_HALF @ np.abs(direction))
        behind = float((here - eef[:2]) @ direction)
        across = direction[::-1] * np.array([-1.0, 1.0])
        beside = float((eef[:2] - here) @ across)
        low = eef[2] < PUSH_HEIGHT + 0.02
        pre = here - direction * (reach + 0.022)
        if low and behind > 0.6 * reach and abs(beside) < 0.014:
            left = float((target - here) @ direction)
            step = direction * min(0.022, max(left, 0.0) + max(behind - reach, 0.0) + 0.003) - across * beside
            return Move(to=np.append(eef[:2] + step, PUSH_HEIGHT), gripper=CLOSED, phase=1)
        away = float(np.hypot(*(eef[:2] - pre)))
        if away < 0.016 and self.state.opening < 0.15:
            return Move(to=np.append(pre, PUSH_HEIGHT), gripper=CLOSED, phase=0)
        if eef[2] < CLEAR - 0.015 and away > 0.025:
            return Move(to=np.array([eef[0], eef[1], self.style.hover]), gripper=CLOSED, phase=0)
        return Move(to=np.append(pre, self.style.hover if away > 0.02 else eef[2]), gripper=CLOSED, phase=0)

    def _half_width(self, goal: int, direction: np.ndarray) -> float:
        shape = self.state.objects[goal].geometry
        if shape.cylinder:
            return shape.size[0]
        local = self.state.rotation(goal)[:2, :2].T @ direction
        return float(np.abs(local) @ np.array(shape.size[:2]))

    # Furniture --------------------------------------------------------------------------------------------------

    def _open_drawer(self, spec: TaskSpec) -> Move:
        if not self.state.holding_handle:
            move = self._grasp(self.state.handle - np.array([0.0, self.style.offset, 0.0]), 0.12)
            return Move(to=move.to, gripper=move.gripper, phase=0)
        self._closing = 0
        return Move(to=self.state.eef + np.array([0, -0.02, 0]), gripper=CLOSED, phase=1)

    def _close_drawer(self, spec: TaskSpec) -> Move:
        eef, handle = self.state.eef, self.state.handle
        pre = handle + np.array([0.0, -0.045, 0.0])
        if eef[2] < handle[2] + 0.02 and handle[1] - eef[1] > 0.012 and abs(eef[0] - handle[0]) < 0.015:
            step = np.array([handle[0] - eef[0], 0.02, handle[2] - eef[2]])
            return Move(to=eef + step, gripper=CLOSED, phase=1)
        away = float(np.hypot(*(eef - pre)[:2]))
        if away < 0.015 and self.state.opening < 0.15:
            return Move(to=pre, gripper=CLOSED, phase=0)
        top = max(0.14, self.style.hover)
        up = eef[2] < top - 0.02 and away > 0.02
        return Move(to=np.array([*(eef[:2] if up else pre[:2]), top]), gripper=CLOSED, phase=0)

    def _press_button(self, spec: TaskSpec) -> Move:
        eef, top = self.state.eef, self.state.button_top
        away = float(np.hypot(*(eef - top)[:2]))
        if away < 0.012 and self.state.opening < 0.15:
            pressing = eef[2] < top[2] + 0.03
            return Move(to=np.array([top[0], top[1], top[2] - 0.02]), gripper=CLOSED, phase=int(pressing))
        height = top[2] + 0.06
        up = eef[2] < height - 0.03 and away > 0.02
        return Move(to=np.array([*(eef[:2] if up else top[:2]), height]), gripper=CLOSED, phase=0)


_MOVES = {
    "lift": TabletopExpert._lift,
    "put_in": TabletopExpert._place,
    "put_on": TabletopExpert._place,
    "push": TabletopExpert._push,
    "push_behind": TabletopExpert._push_relative,
    "push_beside": TabletopExpert._push_relative,
    "open_drawer": TabletopExpert._open_drawer,
    "close_drawer": TabletopExpert._close_drawer,
    "press_button": TabletopExpert._press_button,
}
