"""What DexVLA's curriculum, its sub-steps and its head are worth at nano size, all arms trained for equal time.

An arm with a Stage 1 spends a third of that time on it, from --data and the Sawyer's demonstrations in
runs/dexvla/sawyer.
`benchmarks/dexvla_joint.py` has the speed of Stage 1 alone.
"""

from visuomotor.studies.engine import Arm, Study
from visuomotor.studies.held_out import measure_held_out

__all__ = ["DEXVLA_CURRICULUM"]

ALONE = {"expert": 0.0}
THOUGHT = ("subtask",)

DEXVLA_CURRICULUM = Study(
    name="dexvla-curriculum",
    question="What do Stage 1, sub-step text, the diffusion transformer and layers for each robot add to DexVLA?",
    recipe="dexvla-nano",
    arguments={"adapt": 0.0, "task": None},  # Stage 3 would give every arm the same
    measure=measure_held_out,
    arms=(
        Arm(name="stage-2", adds="Stage 2 alone, with sub-step text", arguments=ALONE, think=THOUGHT),
        Arm(
            name="unet",
            adds="a UNet in the place of ScaleDP, Stage 2 alone",
            arguments={**ALONE, "head": "unet"},
            think=THOUGHT,
            against="stage-2",
        ),
        Arm(name="curriculum", adds="Stage 1 before Stage 2, sub-step text in both", think=THOUGHT, against="stage-2"),
        Arm(
            name="substeps-in-stage-2",
            adds="sub-step text in Stage 2 only",
            arguments={"substeps": "stage2"},
            think=THOUGHT,
            against="curriculum",
        ),
        Arm(
            name="no-substeps",
            adds="no sub-step text at all",
            arguments={"substeps": "none"},
            against="curriculum",
        ),
        Arm(
            name="shared-layers",
            adds="one set of layers for all robots",
            arguments={"head_per_embodiment": False},
            think=THOUGHT,
            against="curriculum",
        ),
    ),
)
