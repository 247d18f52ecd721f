"""Policies of one's own, which are no models of the library: they look for the colour that the sentence names.

visuomotor eval policies.py:SEEKER --environment rooms.py:WORLD
"""

from collections.abc import Sequence

import numpy as np
from rooms import COLOURS, ROBOT, SIDE  # a neighbour, as in a script

from visuomotor.contract import ActionChunk, Embodiment, Observation
from visuomotor.session import Session
from visuomotor.studies import Arm, Study


class Seeker:
    def __init__(self, embodiment: Embodiment = ROBOT, pace: float = 0.1) -> None:
        self.embodiment, self.pace = embodiment, pace

    def infer(
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[ActionChunk]:
        return [self.chunk(observation) for observation in observations]

    def chunk(self, observation: Observation) -> ActionChunk:
        (picture,) = observation.images.values()
        colour = next(value for name, value in COLOURS.items() if name in observation.instruction)
        rows, columns = np.nonzero((picture == colour).all(-1))
        place, actions = observation.state.copy(), []
        for _ in range(8):
            away = np.array([columns.mean(), rows.mean()]) / (SIDE - 1) - place if len(rows) else np.zeros(2)
            actions.append(np.clip(away, -self.pace, self.pace).astype(np.float32))
            place = place + actions[-1]
        return ActionChunk(actions=np.stack(actions), embodiment=self.embodiment, text={"subtask": "seek"})


SEEKER = Seeker()


def slow(pace: float = 0.02) -> Seeker:
    return Seeker(pace=pace)


def nothing() -> None:
    pass


STUDY = Study(
    name="mine",
    question="Does it help to look?",
    recipe="cogact-nano",
    arms=(Arm(name="blind", adds=""), Arm(name="seeing", adds="eyes", against="blind")),
)
