"""How chunks are executed on the platform, and what published DM0 clients use for the 30 tasks of Table30."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from visuomotor.spelling import did_you_mean

__all__ = ["TASKS", "Execution", "Gripper", "Task", "table30"]

JOINT_LIMITS = (  # ALOHA, degrees and m: published for one task
    (-150, 0, -170, -100, -70, -180, 0.0),
    (150, 180, 0, 99, 70, 180, 0.1),
)


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """Below `threshold` a gripper closes, to `closed`; above it opens to `opened`, or keeps its number where None."""

    threshold: float
    closed: float
    opened: float | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.where(values < self.threshold, self.closed, values if self.opened is None else self.opened)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What becomes of a chunk before it is sent.

    horizon     actions that are executed before the policy looks again; None: the whole chunk
    duration    seconds for each action
    gripper     a rule for the grippers' numbers
    stretch     steps sent for one of the policy's, on straight lines between them
    low, high   limits of the numbers that are sent; what lies beyond is clipped
    """

    horizon: int | None = None
    duration: float = 0.1
    gripper: Gripper | None = None
    stretch: int = 1
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.horizon is not None and self.horizon < 1) or self.stretch < 1:
            raise ValueError(f"horizon is {self.horizon} and stretch {self.stretch}; both must be at least 1.")
        if not 0.01 <= self.duration <= 10:
            raise ValueError(f"duration is {self.duration} s for one action; give 0.01 to 10 s.")

    def cut(self, actions: Float[np.ndarray, "T A"], grippers: tuple[int, ...]) -> Float[np.ndarray, "h A"]:
        """The part of a chunk that is executed, its grippers by the rule."""
        chunk = np.array(actions[: self.horizon], np.float64)
        if self.gripper is not None:
            chunk[:, grippers] = self.gripper(chunk[:, grippers])
        return chunk

    def clip(self, wire: Float[np.ndarray, "n w"]) -> Float[np.ndarray, "n w"]:
        """Numbers that are sent, within `low` and `high`."""
        return wire if self.low is None and self.high is None else np.clip(wire, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of Table30: its robot, its prompt, and how specialists (and generalists) execute it."""

    name: str
    robot: str
    prompt: str
    specialist: Execution
    generalist: Execution


_ROWS = """
arrange_flowers arx5 50 35 .1 .1 .01 insert the three flowers on the table into the vase one by one
arrange_fruits_in_basket ur5 20 25 .1 .1 - Place the four fruits into the nearby basket one by one
arrange_paper_cups arx5 35 35 .1 .1 .01 stack the four paper cups on top of the paper cup closest to the shelf one by one and place the stacked cups on the shelf
clean_dining_table aloha 15 25 .1 .1 .02 place all the trash into the green trash bin, and put the dishes into the transparent basket
fold_dishcloth arx5 35 50 .1 .1 .01 fold the dishcloth in half twice, then place it in the position slightly to the front and left
hang_toothbrush_cup ur5 10 15 .1 .1 - hang the orange toothbrush cup on the cup holder
make_vegetarian_sandwich aloha 35 35 .1 .1 .01 make a vegetable sandwich
move_objects_into_box franka 25 15 .185 .2 - place all the clutter on the desk into the white box
open_the_drawer arx5 25 35 .1 .1 .01 open the drawer
place_shoes_on_rack arx5 50 50 .1 .1 .01 place these shoes on the shoe rack
plug_in_network_cable aloha 15 25 .05 .1 .015 Insert the RJ45 connector of the Ethernet cable into the host.
pour_fries_into_plate aloha 35 25 .1 .1 .01 open the box lid and pour the chips from the box onto the plate.
press_three_buttons franka 35 35 .2 .2 - press the pink, blue, and green buttons in sequence
put_cup_on_coaster arx5 25 25 .1 .1 .01 place the cup on the coaster
put_opener_in_drawer aloha 30 35 .1 .1 .03 place the can opener into the right-hand drawer
put_pen_into_pencil_case aloha 40 25 .1 .1 .01 place the pen on the table into the pencil case
scan_QR_code aloha 25 25 .1 .1 .01 scan the QR code on the medicine box using the scanner
search_green_boxes arx5 35 35 .1 .1 .01 search through the stack of blocks for the green blocks and place it into the yellow box
set_the_plates ur5 20 15 .1 .1 - place the three plates onto the plate rack one by one
shred_scrap_paper ur5 15 15 .1 .1 - place the white paper on the shelf into the shredder for shredding
sort_books ur5 15 25 .1 .1 - place the three books on the shelf into the corresponding book sections of the black bookshelf
sort_electronic_products arx5 50 35 .1 .1 .01 classify the four electronic products on the table and place them into the corresponding transparent baskets
stack_bowls aloha 25 25 .1 .1 .01 stack the two smaller bowls on top of the largest bowl one by one.
stack_color_blocks ur5 15 15 .1 .1 - stack the yellow block on top of the orange block
stick_tape_to_box aloha 15 15 .1 .1 .003 tear off a piece of clear tape and stick it onto the metal box
sweep_the_rubbish aloha 25 40 .1 .1 .035 sweep the trash into the dustpan using a broom
turn_on_faucet aloha 35 35 .1 .1 .01 grasp the faucet switch and turn it on
turn_on_light_switch arx5 25 35 .1 .1 .01 turn on the light switch
water_potted_plant arx5 25 35 .1 .1 .01 water the potted plant using the kettle
wipe_the_table arx5 50 35 .1 .1 .01 pull out a tissue, wipe the stains on the table clean, and then discard the tissue into the trash bin
"""  # noqa: E501  name, robot, horizons and durations of specialist and generalist, gripper threshold, prompt
_STRETCHED = {"arrange_flowers": 2, "wipe_the_table": 2, "open_the_drawer": 2}
_GRIPPERS = {
    "ur5": Gripper(threshold=50, closed=3, opened=228),
    "franka": Gripper(threshold=0.04, closed=0.004, opened=0.084),
}
_USUAL = Gripper(threshold=0.01, closed=0.0)


def _task(row: str) -> Task:
    name, robot, specialist, generalist, duration, slow, threshold, prompt = row.split(" ", 7)
    stretch = _STRETCHED.get(name, 1)
    low = high = None
    if name == "put_pen_into_pencil_case":
        low, high = (tuple(v if i == 6 else np.deg2rad(v) for i, v in enumerate(side)) * 2 for side in JOINT_LIMITS)
    own = _GRIPPERS.get(robot) or Gripper(threshold=float(threshold), closed=0.0)
    return Task(
        name=name,
        robot=robot,
        prompt=prompt,
        specialist=Execution(
            horizon=int(specialist), duration=float(duration), gripper=own, stretch=stretch, low=low, high=high
        ),
        generalist=Execution(
            horizon=int(generalist),
            duration=float(slow),
            gripper=_GRIPPERS.get(robot, _USUAL),
            stretch=stretch,
            low=low,
            high=high,
        ),
    )


TASKS: dict[str, Task] = {task.name: task for task in map(_task, _ROWS.strip().splitlines())}


def table30(name: str) -> Task:
    """The task of this name."""
    if name not in TASKS:
        raise ValueError(f"Table30 has no task {name!r}.{did_you_mean(name, TASKS)} It has {', '.join(TASKS)}.")
    return TASKS[name]
