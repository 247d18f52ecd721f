"""How smoothly a robot was commanded, over an episode and where one chunk takes over from another."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from visuomotor.contract import Embodiment

__all__ = ["jerks"]


def jerks(
    commands: Float[np.ndarray, "steps a"], seams: Sequence[int], embodiment: Embodiment
) -> tuple[float | None, float | None]:
    """(mean jerk of the commanded motion, mean over `seams` of the largest jerk across each); None where there is none.

    Jerk is the norm of the third difference of the commanded places, in their unit per second cubed: of end-effectors,
    or of joints where nothing commands an end-effector. `seams`: steps whose command is the first of a new chunk.
    """
    kind = "position" if any(c.kind == "position" for c in embodiment.action) else "joint"
    slices = embodiment.action_slices()
    moving = [(slices[c.name], c.reference == "step") for c in embodiment.action if c.kind == kind]
    if not moving or len(commands) < 4:
        return None, None
    # Differences per step are added up to places; chunk_start ones count as the places that they are relative to.
    places = np.concatenate(
        [np.cumsum(commands[:, s], axis=0, dtype=np.float64) if step else commands[:, s] for s, step in moving], axis=1
    )
    third = np.linalg.norm(np.diff(places, 3, axis=0), axis=1) * embodiment.control_hz**3
    across = [third[max(seam - 3, 0) : seam] for seam in seams]  # third[k] is made of the places k to k + 3
    largest = [float(window.max()) for window in across if len(window)]
    return float(third.mean()), float(np.mean(largest)) if largest else None
