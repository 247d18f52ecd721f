"""What to say for each Meta-World task: sentences to train with, and paraphrases kept out of training.

The package has no language of its own. No sentence belongs to two tasks whose scenes look alike.
"""

from dataclasses import dataclass

from visuomotor.simulation.metaworld.pairs import PREFIX

__all__ = ["SENTENCES", "Sentences", "default_sentence", "opposite"]


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """`train`: at least four, the first is the default. `heldout`: at least two, with words of their own."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


def _s(*train: str, heldout: tuple[str, ...]) -> Sentences:
    return Sentences(train=train, heldout=heldout)


SENTENCES: dict[str, Sentences] = {
    "assembly": _s(
        "put the ring on the peg",
        "pick up the ring and put it onto the peg",
        "place the ring over the peg",
        "assemble the ring and the peg",
        heldout=("slip the ring over the stake", "grab the ring and drop it onto the peg"),
    ),
    "basketball": _s(
        "put the basketball into the hoop",
        "pick up the ball and drop it into the basket",
        "dunk the basketball",
        "place the ball in the hoop",
        heldout=("score with the basketball", "carry the ball up and let it fall through the hoop"),
    ),
    "bin-picking": _s(
        "move the cube from one bin to the other",
        "pick the cube out of its bin and put it into the other bin",
        "put the cube in the other bin",
        "take the cube to the second bin",
        heldout=("transfer the cube into the empty bin", "grab the cube and drop it in the neighbouring bin"),
    ),
    "box-close": _s(
        "put the lid on the box",
        "close the box with its lid",
        "pick up the lid and place it on the box",
        "cover the box with the lid",
        heldout=("shut the box using the cover", "set the lid down on top of the box"),
    ),
    "button-press-topdown": _s(
        "press the button from above",
        "push the button down from the top",
        "press down on the button",
        "press the top button",
        heldout=("come down onto the button", "hit the button from overhead"),
    ),
    "button-press-topdown-wall": _s(
        "press the button behind the wall from above",
        "go over the wall and push the button down",
        "reach over the wall and press down on the button",
        "press the button on the far side of the wall from the top",
        heldout=("pass above the wall and come down onto the button", "hit the button past the wall from overhead"),
    ),
    "button-press": _s(
        "press the button",
        "push the button in",
        "press the button on the front of the box",
        "push the button from the front",
        heldout=("poke the button", "hit the button on the box"),
    ),
    "button-press-wall": _s(
        "press the button behind the wall",
        "go around the wall and push the button in",
        "reach past the wall and press the button",
        "push the button on the other side of the wall",
        heldout=("poke the button that the wall hides", "get past the wall and hit the button"),
    ),
    "coffee-button": _s(
        "press the button on the coffee machine",
        "push the coffee machine button",
        "turn on the coffee machine",
        "start the coffee machine",
        heldout=("make some coffee", "switch the coffee maker on"),
    ),
    "coffee-pull": _s(
        "pull the mug away from the coffee machine",
        "take the mug from the coffee machine",
        "move the mug out from under the coffee machine",
        "drag the mug away from the coffee machine",
        heldout=("fetch the cup from the coffee maker", "bring the mug back from the coffee machine"),
    ),
    "coffee-push": _s(
        "push the mug under the coffee machine",
        "put the mug under the coffee machine",
        "move the mug to the coffee machine",
        "slide the mug below the coffee machine",
        heldout=("get the cup ready under the coffee maker", "shove the mug beneath the coffee machine"),
    ),
    "dial-turn": _s(
        "turn the dial",
        "rotate the dial",
        "turn the knob",
        "rotate the knob on the table",
        heldout=("twist the dial", "spin the knob around"),
    ),
    "disassemble": _s(
        "take the ring off the peg",
        "lift the ring off the peg",
        "remove the ring from the peg",
        "pull the ring up and off the peg",
        heldout=("free the ring from the stake", "disassemble the ring and the peg"),
    ),
    "door-close": _s(
        "close the door",
        "push the door shut",
        "shut the door",
        "push the door closed",
        heldout=("swing the door to", "make sure the door is closed"),
    ),
    "door-lock": _s(
        "lock the door",
        "turn the lock to lock the door",
        "turn the door lock down",
        "close the lock on the door",
        heldout=("secure the door", "rotate the latch so that the door is locked"),
    ),
    "door-open": _s(
        "open the door",
        "pull the door open",
        "open the door by its handle",
        "pull on the door handle to open the door",
        heldout=("swing the door wide", "get the door opened"),
    ),
    "door-unlock": _s(
        "unlock the door",
        "turn the lock to unlock the door",
        "turn the door lock to the side",
        "open the lock on the door",
        heldout=("release the door", "rotate the latch so that the door is unlocked"),
    ),
    "hand-insert": _s(
        "put the block into the hole",
        "insert the block into the hole in the table",
        "pick up the block and put it into the hole",
        "place the block in the hole",
        heldout=("lower the brick into the gap", "stick the block down the hole"),
    ),
    "drawer-close": _s(
        "close the drawer",
        "push the drawer shut",
        "shut the drawer",
        "push the drawer in",
        heldout=("slide the drawer back", "make sure the drawer is closed"),
    ),
    "drawer-open": _s(
        "open the drawer",
        "pull the drawer open",
        "pull out the drawer",
        "open the drawer by its handle",
        heldout=("draw the drawer towards you", "get the drawer opened"),
    ),
    "faucet-open": _s(
        "open the faucet",
        "turn the faucet on",
        "turn the faucet handle to open it",
        "turn on the tap",
        heldout=("let the water run", "get the tap opened"),
    ),
    "faucet-close": _s(
        "close the faucet",
        "turn the faucet off",
        "turn the faucet handle to close it",
        "turn off the tap",
        heldout=("stop the water", "make sure the tap is shut"),
    ),
    "hammer": _s(
        "hit the nail with the hammer",
        "hammer the nail into the box",
        "pick up the hammer and hit the nail",
        "drive the nail in with the hammer",
        heldout=("knock the nail in", "grab the hammer and strike the nail"),
    ),
    "handle-press-side": _s(
        "press the handle down from the side",
        "push the side handle down",
        "push down the handle on the side",
        "press the side handle",
        heldout=("lower the sideways lever", "force the handle on the side downwards"),
    ),
    "handle-press": _s(
        "press the handle down",
        "push the handle down",
        "press down on the handle",
        "push down the handle",
        heldout=("lower the handle", "force the handle downwards"),
    ),
    "handle-pull-side": _s(
        "pull the handle up from the side",
        "pull the side handle up",
        "pull up the handle on the side",
        "lift the side handle",
        heldout=("raise the sideways lever", "bring the handle on the side upwards"),
    ),
    "handle-pull": _s(
        "pull the handle up",
        "pull up the handle",
        "lift the handle",
        "pull up on the handle",
        heldout=("raise the handle", "bring the handle upwards"),
    ),
    "lever-pull": _s(
        "pull the lever up",
        "lift the lever",
        "pull up on the lever",
        "move the lever up",
        heldout=("raise the lever", "flip the lever upwards"),
    ),
    "pick-place-wall": _s(
        "carry the puck over the wall to the goal",
        "pick up the puck and place it at the goal behind the wall",
        "lift the puck over the wall",
        "pick the puck up and bring it past the wall",
        heldout=("transport the puck across the wall", "grab the puck and take it over the barrier"),
    ),
    "pick-out-of-hole": _s(
        "pick the puck out of the hole",
        "take the puck out of the hole",
        "lift the puck out of the hole",
        "grasp the puck in the hole and lift it",
        heldout=("fetch the puck from the pit", "get the puck up from the hole"),
    ),
    "pick-place": _s(
        "pick up the puck and place it at the goal",
        "carry the puck to the goal",
        "lift the puck and bring it to the goal",
        "pick and place the puck",
        heldout=("grab the puck and hold it at the target", "transport the puck to where it belongs"),
    ),
    "plate-slide": _s(
        "slide the plate into the cabinet",
        "push the plate into the cabinet",
        "slide the plate forward into the cabinet",
        "move the plate into the cabinet",
        heldout=("shove the dish into the rack", "store the plate in the cabinet"),
    ),
    "plate-slide-side": _s(
        "slide the plate sideways into the cabinet",
        "push the plate sideways into the cabinet",
        "move the plate to the side into the cabinet",
        "slide the plate into the cabinet from the side",
        heldout=("shove the dish sideways into the rack", "store the plate in the cabinet at the side"),
    ),
    "plate-slide-back": _s(
        "slide the plate out of the cabinet",
        "pull the plate back out of the cabinet",
        "slide the plate back towards the robot",
        "move the plate out of the cabinet",
        heldout=("drag the dish out of the rack", "take the plate from the cabinet"),
    ),
    "plate-slide-back-side": _s(
        "slide the plate sideways out of the cabinet",
        "pull the plate out of the cabinet to the side",
        "move the plate sideways out of the cabinet",
        "slide the plate out of the cabinet sideways",
        heldout=("drag the dish sideways out of the rack", "take the plate from the cabinet to one side"),
    ),
    "peg-insert-side": _s(
        "insert the peg into the hole in the box",
        "pick up the peg and push it into the box",
        "put the peg into the side of the box",
        "plug the peg into the box",
        heldout=("slot the pin into the opening", "grab the peg and stick it in the box"),
    ),
    "peg-unplug-side": _s(
        "pull the peg out of the box",
        "unplug the peg",
        "remove the peg from the side of the box",
        "take the peg out of the hole",
        heldout=("extract the pin", "disconnect the peg from the box"),
    ),
    "soccer": _s(
        "push the ball into the goal",
        "kick the soccer ball into the goal",
        "move the ball into the net",
        "put the ball in the goal",
        heldout=("score a goal", "shoot the football into the net"),
    ),
    "stick-push": _s(
        "push the container with the stick",
        "pick up the stick and push the container with it",
        "use the stick to push the container away",
        "grasp the stick and push the container",
        heldout=("shove the jar using the stick", "poke the container forward with the rod"),
    ),
    "stick-pull": _s(
        "pull the container with the stick",
        "pick up the stick and pull the container with it",
        "use the stick to pull the container closer",
        "grasp the stick and pull the container",
        heldout=("drag the jar using the stick", "hook the container with the rod and bring it here"),
    ),
    "push": _s(
        "push the puck to the goal",
        "slide the puck to the goal",
        "move the puck across the table to the goal",
        "push the puck along the table",
        heldout=("shove the puck to the target", "get the puck over to its place on the table"),
    ),
    "push-wall": _s(
        "push the puck around the wall to the goal",
        "slide the puck past the wall",
        "move the puck around the wall",
        "push the puck behind the wall",
        heldout=("shove the puck around the barrier", "get the puck past the wall to its place"),
    ),
    "push-back": _s(
        "pull the block back to the goal",
        "push the block back towards the robot",
        "drag the block back",
        "move the block back to the goal",
        heldout=("bring the brick closer", "haul the block back to the target"),
    ),
    "reach": _s(
        "move the gripper to the goal",
        "reach the goal",
        "reach the target position",
        "move the hand to the goal",
        heldout=("bring the arm to the target", "go to the goal point"),
    ),
    "reach-wall": _s(
        "move the gripper over the wall to the goal",
        "reach the goal behind the wall",
        "reach over the wall",
        "move the hand past the wall to the goal",
        heldout=("bring the arm across the barrier", "go to the goal point beyond the wall"),
    ),
    "shelf-place": _s(
        "put the block on the shelf",
        "pick up the block and place it on the shelf",
        "place the block onto the shelf",
        "move the block to the shelf",
        heldout=("store the brick on the rack", "set the block down on the shelf"),
    ),
    "sweep-into": _s(
        "sweep the block into the hole",
        "push the block into the hole",
        "move the block along the table into the hole",
        "slide the block into the hole",
        heldout=("brush the brick into the pit", "get the block to fall into the hole"),
    ),
    "sweep": _s(
        "sweep the block off the table",
        "push the block off the table",
        "move the block over the edge of the table",
        "slide the block off the table",
        heldout=("brush the brick off the surface", "clear the block from the table"),
    ),
    "window-open": _s(
        "open the window",
        "slide the window open",
        "push the window open",
        "open the window by its handle",
        heldout=("let some air in", "get the window opened"),
    ),
    "window-close": _s(
        "close the window",
        "slide the window shut",
        "push the window closed",
        "shut the window",
        heldout=("keep the wind out", "make sure the window is closed"),
    ),
}

_OPPOSITES = (
    ("drawer-open", "drawer-close"),
    ("window-open", "window-close"),
    ("door-lock", "door-unlock"),
    ("door-open", "door-close"),
    ("handle-press", "handle-pull"),
    ("handle-press-side", "handle-pull-side"),
    ("faucet-open", "faucet-close"),
    ("coffee-push", "coffee-pull"),
    ("stick-push", "stick-pull"),
    ("assembly", "disassemble"),
    ("peg-insert-side", "peg-unplug-side"),
    ("plate-slide", "plate-slide-back"),
    ("plate-slide-side", "plate-slide-back-side"),
)


def default_sentence(task: str) -> str:
    """The first training sentence of a task or of a pair task."""
    return SENTENCES[task.removeprefix(PREFIX)].train[0]


def opposite(task: str) -> str | None:
    """The task that undoes this one in the same scene, where the benchmark has it."""
    for one, two in _OPPOSITES:
        if task in (one, two):
            return two if task == one else one
    return None
