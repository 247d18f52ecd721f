"""Sub-steps of demonstrations that nobody annotated, by a rule: where the gripper switches, and where the arm pauses.

A sub-step's text says what the gripper is about and repeats the instruction, as in "reach: put the cup on the shelf".
The rule knows neither objects nor intentions; look at what it makes with `visuomotor data view`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks

from visuomotor.data.conventions import Gripper, component_columns
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.statistics import describe

__all__ = ["SubstepRule", "substeps"]


@dataclass(frozen=True, kw_only=True)
class SubstepRule:
    """Where one sub-step ends and the next begins.

    least_seconds    no sub-step is shorter (DexVLA: about 5 s, for long tasks of two arms)
    pause            a speed minimum counts below this share of the episode's fast motion (its 90th percentile)
    smooth_seconds   over which speed is averaged before minima are looked for
    """

    least_seconds: float = 1.0
    pause: float = 0.3
    smooth_seconds: float = 0.3

    def __post_init__(self) -> None:
        if not (self.least_seconds > 0 and self.smooth_seconds >= 0 and 0 <= self.pause <= 1):
            raise ValueError(
                f"least_seconds is {self.least_seconds}, smooth_seconds {self.smooth_seconds} and pause {self.pause}; "
                f"times are positive, and pause is a share from 0 to 1."
            )

    def starts(self, closed: Bool[np.ndarray, "F"], speed: Float[np.ndarray, "F"], fps: float) -> list[int]:
        """First frames of the sub-steps of an episode, 0 among them. Switches of the gripper go before pauses."""
        least = max(1, round(self.least_seconds * fps))
        smooth = uniform_filter1d(speed, max(1, round(self.smooth_seconds * fps)), mode="nearest")
        pauses, _ = find_peaks(-smooth, height=-self.pause * float(np.quantile(smooth, 0.9)))
        switches = np.flatnonzero(closed[1:] != closed[:-1]) + 1
        kept = [0, len(closed)]
        for frame in [*switches.tolist(), *pauses[np.argsort(smooth[pauses], kind="stable")].tolist()]:
            if min(abs(frame - other) for other in kept) >= least:
                kept.append(frame)
        return sorted(kept)[:-1]


def substeps(dataset: EpisodeSource, rule: SubstepRule) -> list[str]:
    """The text of every frame of a data set.

    Raises:
        ValueError: its robot reports no position and no joints, or numbers that are not finite.
    """
    motion = _motion(dataset)
    grippers = Gripper.all_of(dataset, "action") or Gripper.all_of(dataset, "observation.state")
    closed = np.zeros(dataset.num_frames, dtype=bool)
    for gripper in grippers:
        closed |= gripper.closedness > 0.5
    texts: list[str] = []
    for episode in range(dataset.num_episodes):
        rows = dataset.episode_slice(episode)
        steps = np.linalg.norm(np.diff(motion[rows], axis=0), axis=1) * dataset.fps
        speed = np.append(steps, steps[-1:] if len(steps) else 0.0)
        starts = rule.starts(closed[rows], speed, dataset.fps)
        for name, length in zip(_names(starts, closed[rows]), np.diff([*starts, len(speed)]), strict=True):
            texts += [f"{name}: {dataset.instruction(episode)}"] * int(length)
    return texts


def _motion(dataset: EpisodeSource) -> np.ndarray:
    """float64[n, d] whose speed is the arm's: positions of the end-effector, else joint angles."""
    for kind in ("position", "joint"):
        parts = [v for component, v in component_columns(dataset, "observation.state") if component.kind == kind]
        if parts:
            values = np.concatenate(parts, axis=1)
            if not np.isfinite(values).all():
                raise ValueError(f"The state of {describe(dataset)} is not finite. Run `visuomotor data doctor`.")
            return values
    raise ValueError(
        f"The robot of {describe(dataset)} reports neither a position nor joints, so its speed is not known and no "
        f"sub-steps can be found; check the kinds of its state in embodiment.json."
    )


def _names(starts: list[int], closed: np.ndarray) -> list[str]:
    """What each sub-step is called; those that only a pause divides are numbered."""
    ends = [*starts[1:], len(closed)]
    phases = [_phase(closed[a:b], closed[:a], closed[b:]) for a, b in zip(starts, ends, strict=True)]
    names, first = [], 0
    for i, phase in enumerate(phases):
        first = first if i and phases[i - 1] == phase else i
        alone = first == i and phases[i + 1 : i + 2] != [phase]
        names.append(phase if alone else f"{phase}, part {i - first + 1}")
    return names


def _phase(own: np.ndarray, before: np.ndarray, after: np.ndarray) -> str:
    """By the gripper: it will close, is closed, was closed, or is one or the other all the time."""
    closed = own.mean() > 0.5
    if closed:
        return "carry" if not (before.all() and after.all()) else "move"
    if after.any():
        return "reach"
    return "withdraw" if before.any() else "move"
