"""What each of DM0's unreleased mechanisms is worth, one added after the other, at nano size on the tabletop.

The arms start from one model that has learnt where named things are (the recipe's stage "see", and 2 % of its time on
everything), as the paper's start from a pre-trained one, and train for equal time. In the last two fifths of it, as in
the recipe, the expert of every arm learns alone: only a policy that acts well enough shows what it was told.
"""

from visuomotor.studies.engine import Arm, Study

__all__ = ["DM0_MECHANISMS"]


def _levels(subtask: float, box: float, action: float) -> dict[str, str]:
    return {"processor.levels": f'{{"subtask": {subtask}, "box": {box}, "trajectory": 0, "action": {action}}}'}


COUPLED, DECOUPLED = {"config.gradient_decoupling": "false"}, {"config.gradient_decoupling": "true"}
DEMONSTRATIONS = {"grounding": 0.0}  # alone, without questions beside them
THOUGHT = ("subtask", "box")

DM0_MECHANISMS = Study(
    name="dm0-mechanisms",
    question="What do action tokens, gradient decoupling, scaffolding and vision-language data add to the flow?",
    recipe="tabletop-nano",
    arguments={"see": 0.0, "act": 0.4},
    base={"see": 0.98, "act": 0.0},  # the rest on everything, so that the checkpoint knows the robot's statistics
    boxes="Box:",
    arms=(
        Arm(
            name="flow",
            adds="the flow loss alone",
            arguments=DEMONSTRATIONS,
            fields={**_levels(0, 0, 0), **COUPLED},
        ),
        Arm(
            name="tokens",
            adds="discrete action tokens",
            arguments=DEMONSTRATIONS,
            fields={**_levels(0, 0, 0.5), **COUPLED},
            against="flow",
        ),
        Arm(
            name="decoupled",
            adds="gradient decoupling",
            arguments=DEMONSTRATIONS,
            fields={**_levels(0, 0, 0.5), **DECOUPLED},
            against="tokens",
        ),
        Arm(
            name="scaffold",
            adds="sub-task and box in training",
            arguments=DEMONSTRATIONS,
            fields={**_levels(0.7, 0.9, 0.5), **DECOUPLED},
            against="decoupled",
        ),
        Arm(
            name="scaffold-text-first",
            adds="sub-task and box written before acting",
            think=THOUGHT,
            weights_of="scaffold",
            against="scaffold",
        ),
        Arm(
            name="questions",
            adds="grounding questions beside the demonstrations",
            fields={**_levels(0.7, 0.9, 0.5), **DECOUPLED},
            against="scaffold",
        ),
        Arm(
            name="questions-text-first",
            adds="sub-task and box written before acting",
            think=THOUGHT,
            weights_of="questions",
            against="questions",
        ),
    ),
)
