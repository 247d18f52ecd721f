"""The 50 tasks of Meta-World: their objects in the scene, and the phrases for what the scripted experts do."""

from collections.abc import Sequence
from dataclasses import dataclass

from visuomotor.simulation.metaworld.pairs import PAIRS, PREFIX
from visuomotor.spelling import did_you_mean

__all__ = ["GRASP_TASKS", "PAIR_TASKS", "TASKS", "Task", "resolve_tasks"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: its objects and the phrases of its sub-tasks.

    `objects`: {name: body or geom in the scene}, the one to handle first. `reach`, `act`: the sub-tasks; `grasp`: the
    one between them where the expert takes hold of the object. `reaching`: the hand itself is to reach a goal.
    `hidden_goal`: the goal is drawn anew for each start, by more than the tolerance, and only the benchmark's marker,
    never drawn here, would show it: a policy that sees pictures and words can only guess.
    """

    objects: dict[str, str]
    reach: str
    act: str
    grasp: str | None = None
    reaching: bool = False
    hidden_goal: bool = False


def _press(thing: str, act: str, *, hidden_goal: bool = False, **objects: str) -> Task:
    """A task without a grasp: reach `thing`, then `act`. Objects are given as pairs body=name (or geom=name)."""
    return Task(
        objects={name: body for body, name in objects.items()},
        reach=f"reach the {thing}",
        act=act,
        hidden_goal=hidden_goal,
    )


def _carry(thing: str, act: str, *, hidden_goal: bool = False, **objects: str) -> Task:
    """A task with a grasp of `thing`."""
    return Task(
        objects={name: body for body, name in objects.items()},
        reach=f"reach the {thing}",
        grasp=f"grasp the {thing}",
        act=act,
        hidden_goal=hidden_goal,
    )


TASKS: dict[str, Task] = {
    "assembly": _carry("ring", "put the ring on the peg", RoundNut="ring", peg="peg"),
    "basketball": _carry(
        "basketball", "drop the basketball into the hoop", bsktball="basketball", basket_goal="basketball hoop"
    ),
    "bin-picking": _carry("cube", "move the cube to the other bin", obj="cube", bin_goal="goal bin"),
    "box-close": _carry("lid", "put the lid on the box", boxbodytop="lid", boxbody="box"),
    "button-press-topdown": _press("button", "press the button down", button="button"),
    "button-press-topdown-wall": _press("button", "press the button down", button="button", wall="wall"),
    "button-press": _press("button", "push the button in", button="button"),
    "button-press-wall": _press("button", "push the button in", button="button", wall="wall"),
    "coffee-button": _press(
        "coffee machine button", "press the coffee machine button", cmbutton="button", coffee_machine="coffee machine"
    ),
    "coffee-pull": _carry(
        "mug", "pull the mug away from the machine", hidden_goal=True, obj="mug", coffee_machine="coffee machine"
    ),
    "coffee-push": _carry("mug", "push the mug under the machine", obj="mug", coffee_machine="coffee machine"),
    "dial-turn": _press("dial", "turn the dial", dial="dial"),
    "disassemble": _carry("ring", "lift the ring off the peg", RoundNut="ring", peg="peg"),
    "door-close": _press("door", "push the door shut", door_link="door"),
    "door-lock": _press("lock", "turn the lock down", lock_link="lock", door="door"),
    "door-open": _press("door handle", "pull the door open", door_link="door"),
    "door-unlock": _press("lock", "turn the lock sideways", lock_link="lock", door="door"),
    "hand-insert": _carry("block", "move the block into the hole", obj="block"),
    "drawer-close": _press("drawer handle", "push the drawer shut", objGeom="drawer handle", drawer="drawer"),
    "drawer-open": _press("drawer handle", "pull the drawer open", objGeom="drawer handle", drawer="drawer"),
    "faucet-open": _press("faucet handle", "turn the faucet open", faucet_link2="faucet handle", faucetBase="faucet"),
    "faucet-close": _press(
        "faucet handle", "turn the faucet closed", faucet_link2="faucet handle", faucetBase="faucet"
    ),
    "hammer": _carry("hammer", "hit the nail with the hammer", hammerbody="hammer", nail_link="nail", box="box"),
    "handle-press-side": _press("handle", "press the handle down", handle_link="handle"),
    "handle-press": _press("handle", "press the handle down", handle_link="handle"),
    "handle-pull-side": _carry("handle", "pull the handle up", handle_link="handle"),
    "handle-pull": _press("handle", "pull the handle up", handle_link="handle"),
    "lever-pull": _press("lever", "pull the lever up", lever_link1="lever"),
    "pick-place-wall": _carry("puck", "carry the puck over the wall", hidden_goal=True, obj="puck", wall="wall"),
    "pick-out-of-hole": _carry("puck", "lift the puck out of the hole", hidden_goal=True, obj="puck"),
    "pick-place": _carry("puck", "carry the puck to the goal", hidden_goal=True, obj="puck"),
    "plate-slide": _press("plate", "slide the plate into the cabinet", puck_channel="plate", puck_goal="cabinet"),
    "plate-slide-side": _press(
        "plate", "slide the plate sideways into the cabinet", puck_channel="plate", puck_goal="cabinet"
    ),
    "plate-slide-back": _press(
        "plate", "slide the plate back out", hidden_goal=True, puck_channel="plate", puck_goal="cabinet"
    ),
    "plate-slide-back-side": _press(
        "plate", "slide the plate out sideways", hidden_goal=True, puck_channel="plate", puck_goal="cabinet"
    ),
    "peg-insert-side": _carry("peg", "insert the peg into the box", peg="peg", box="box"),
    "peg-unplug-side": _carry("peg", "pull the peg out of the box", plug1="peg", box="box"),
    "soccer": _press("ball", "push the ball into the goal", soccer_ball="ball", goal_whole="goal"),
    "stick-push": _carry("stick", "push the container with the stick", stick="stick", object="container"),
    "stick-pull": _carry(
        "stick", "pull the container with the stick", hidden_goal=True, stick="stick", object="container"
    ),
    "push": _carry("puck", "push the puck to the goal", hidden_goal=True, obj="puck"),
    "push-wall": _carry("puck", "push the puck around the wall", hidden_goal=True, obj="puck", wall="wall"),
    "push-back": _carry("block", "pull the block back", hidden_goal=True, obj="block"),
    "reach": Task(
        objects={"puck": "obj"},
        reach="move to the goal",
        act="move to the goal",
        reaching=True,
        hidden_goal=True,
    ),
    "reach-wall": Task(
        objects={"wall": "wall", "puck": "obj"},
        reach="move over the wall to the goal",
        act="move over the wall to the goal",
        reaching=True,
        hidden_goal=True,
    ),
    "shelf-place": _carry("block", "put the block on the shelf", obj="block", shelf="shelf"),
    "sweep-into": _carry("block", "sweep the block into the hole", obj="block"),
    "sweep": _carry("block", "sweep the block off the table", obj="block"),
    "window-open": _press("window handle", "slide the window open", windowb_a="window pane", window="window"),
    "window-close": _press("window handle", "slide the window shut", windowb_a="window pane", window="window"),
}

PAIR_TASKS = tuple(PREFIX + task for pair in PAIRS for task in pair.tasks)
GRASP_TASKS = tuple(name for name, task in TASKS.items() if task.grasp and not task.hidden_goal)
GROUPS = {"all": tuple(TASKS), "pairs": PAIR_TASKS, "grasps": GRASP_TASKS}


def resolve_tasks(tasks: str | Sequence[str] | None) -> tuple[str, ...]:
    """Task names from a sequence or a comma-separated string, or of a group.

    Groups are `pairs` (the ten pair tasks), `grasps` (reach, take hold, act; the goal can be seen), `all` and None.

    The benchmark's own spelling `drawer-open-v3` is accepted. An unknown name raises ValueError with the nearest.
    """
    if tasks is None:
        tasks = "all"
    if isinstance(tasks, str) and tasks in GROUPS:
        return GROUPS[tasks]
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    if not names:
        raise ValueError("No Meta-World task given: name at least one, or leave `tasks` out for all 50.")
    known = (*TASKS, *PAIR_TASKS)
    resolved = []
    for name in names:
        plain = name.removesuffix("-v3")
        if plain not in known:
            hint = did_you_mean(plain, known)
            raise ValueError(f"Unknown Meta-World task {name!r}.{hint} There are {len(known)}: {', '.join(known)}.")
        resolved.append(plain)
    return tuple(dict.fromkeys(resolved))
