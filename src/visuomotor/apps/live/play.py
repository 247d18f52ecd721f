"""Drive a simulated robot for a page: look, infer, show what is predicted, move; take instructions and a stop."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from visuomotor_client.chunking import RecedingHorizon
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from visuomotor.apps.live.frames import ChunkShown, Latency, end_effector_path, images_shown
from visuomotor.contract import Observation, Scenario
from visuomotor.serving.remote import FAILURES
from visuomotor.session import PolicyLike, Session
from visuomotor.simulation.interface import Environment

__all__ = ["Play", "PlaySettings"]

logger = logging.getLogger(__name__)
LONGEST_INSTRUCTION = 500


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """execute     actions of a chunk before the policy looks again
    preview     seconds for which a new sub-task is shown before the robot moves
    speed       of the world, 1 is real time
    limits      of the safety filter, beside those of the embodiment
    """

    execute: int = 4
    preview: float = 0.7
    speed: float = 1.0
    limits: SafetyLimits = field(default_factory=SafetyLimits)

    def __post_init__(self) -> None:
        if self.execute < 1 or not 0 <= self.preview <= 60 or not 0.05 <= self.speed <= 100:
            raise ValueError(
                f"execute is {self.execute}, preview {self.preview} s, speed {self.speed}; expected at least 1, 0 to "
                f"60 s and 0.05 to 100."
            )


class Play:
    """One world, one policy, one loop. `publish` gets a frame (JSON) whenever something is to be seen.

    Commands, from any thread: {"do": "instruct", "text"}, {"do": "pause"}, {"do": "stop"}, {"do": "release"},
    {"do": "scene"}, {"do": "move", "camera", "start": [x, y], "end": [x, y]}. A stop latches at once: after it no
    command reaches the robot until it is released, and a new instruction is given.

    Args:
        scenarios: gives the n-th scene.
    """

    def __init__(
        self,
        environment: Environment,
        policy: PolicyLike,
        scenarios: Callable[[int], Scenario],
        publish: Callable[[dict[str, Any]], None],
        settings: PlaySettings | None = None,
    ) -> None:
        policy.embodiment.require_compatible(environment.embodiment, this="The policy", that=f"{environment.name!r}")
        self.environment, self.policy, self.scenarios, self.publish = environment, policy, scenarios, publish
        self.settings = settings or PlaySettings()
        self.filter = SafetyFilter(environment.embodiment, self.settings.limits)
        self.executor = RecedingHorizon(action_dim=environment.embodiment.action_dim, execute=self.settings.execute)
        self.latency, self.session = Latency(), Session(executed=self.settings.execute)
        self.instruction, self.status, self.message = "", "waiting", ""
        self.shown: ChunkShown | None = None
        self.scene = self.steps = self.position = 0
        self._commands: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=100)
        self._due, self._stops = 0.0, 0
        self._chunk_start: np.ndarray | None = None
        self._closed = threading.Event()

    # From any thread ----------------------------------------------------------------------------------------------

    def command(self, given: Mapping[str, Any]) -> None:
        """Take a command of the page. ValueError: it is none."""
        what = given.get("do")
        if what == "stop":
            self._stops += 1
            self.filter.stop("pressed on the page")
        elif what == "instruct" and not isinstance(given.get("text"), str):
            raise ValueError(f"An instruction is text; got {given.get('text')!r}.")
        elif what == "move" and not (_is_point(given.get("start")) and _is_point(given.get("end"))):
            raise ValueError("A move needs start and end as [x, y], 0 to 1000 of the picture.")
        elif what not in ("instruct", "pause", "release", "scene", "move"):
            raise ValueError(f"Unknown command {what!r}.")
        with suppress(queue.Full):  # nobody types that fast
            self._commands.put_nowait({**given, "stops": self._stops})

    def close(self) -> None:
        """End the loop."""
        self._closed.set()

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until closed. The world is made ready, and stepped, in the thread that calls this."""
        self._new_scene()
        self.filter.log_missing()
        while not self._closed.is_set():
            self._obey(wait=0.0 if self.status == "moving" else 0.05)
            if self.status == "moving":
                self._advance()

    def _obey(self, wait: float) -> bool:
        """Carry out the commands that wait; whether there was one."""
        obeyed = False
        with suppress(queue.Empty):
            while True:
                self._do(self._commands.get(timeout=wait) if wait and not obeyed else self._commands.get_nowait())
                obeyed = True
        return obeyed

    def _do(self, given: dict[str, Any]) -> None:
        what, self.message = given["do"], ""
        if what == "instruct":
            self._instruct(given["text"])
        elif what == "scene":
            self.scene += 1
            self._new_scene()
        elif what == "move":
            self._move(given)
        elif what == "pause":
            self.status = "stopped" if self.filter.stopped is not None else "waiting"
        elif what == "stop":
            self.status = "stopped"
        elif what == "release" and self.filter.stopped and given["stops"] == self._stops:  # not a stop that came later
            self.filter.release()
            self.status, self.message = "waiting", "Released. Give an instruction to go on."
        self._show()

    def _instruct(self, text: str) -> None:
        text = " ".join(text.split())[:LONGEST_INSTRUCTION]
        if self.filter.stopped is not None:
            self.message = "The robot is stopped; release it first."
            return
        if not text:
            self.message = "Write what the robot should do."
            return
        self.instruction, self.status = text, "moving"
        self._forget()

    def _move(self, given: dict[str, Any]) -> None:
        move = getattr(self.environment, "move_object", None)
        if move is None:
            self.message = f"Nothing can be moved by hand in {self.environment.name}."
            return
        try:
            name = move(str(given.get("camera", "scene")), tuple(given["start"]), tuple(given["end"]))
            self.message = f"The {name} was moved."
        except (ValueError, KeyError) as error:
            self.message = str(error)

    def _new_scene(self) -> None:
        self.environment.reset(options={"scenario": self.scenarios(self.scene)})
        self.instruction, self.steps = self.environment.instruction, 0
        self.status = "waiting" if self.filter.stopped is None else "stopped"
        self.filter.reset()
        self._forget()
        self._show()

    def _forget(self) -> None:
        """Nothing of an earlier instruction goes on."""
        self.executor.reset()
        self.session.reset()
        self.shown, self.position, self._due = None, 0, 0.0

    def _advance(self) -> None:
        """One control step; first a look, where the chunk is used up."""
        if self.executor.needs_chunk and not self._think():
            return
        hz = self.environment.embodiment.control_hz * self.settings.speed
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due, time.monotonic() - 0.5 / hz) + 1 / hz
        action = self.executor.next_action()
        command = self.filter.apply(action, self.environment.state(), now=time.monotonic(), start=self._chunk_start)
        if self.filter.stopped is not None or command is None:
            self.status = "stopped" if self.filter.stopped is not None else "waiting"
            self.message = "" if self.filter.stopped is not None else "The safety filter let nothing pass."
            self._show()
            return
        self.environment.step(command)
        self.steps += 1
        self.position += 1
        self._show()

    def _think(self) -> bool:
        """Take a new chunk and show it, a new sub-task for a while before the robot moves; False: do not move now."""
        observation = Observation(
            images=self.environment.images(), state=self.environment.state(), instruction=self.instruction
        )
        began = time.perf_counter()
        try:
            chunk = self.policy.infer([observation], sessions=[self.session])[0]
            self.executor.update(chunk.actions)
            self._chunk_start = observation.state
        except FAILURES as error:  # the page says it, and the robot stands
            logger.exception("The policy failed")
            self.status, self.message = "waiting", f"The policy failed: {error}"
            self._show()
            return False
        self.latency.add(time.perf_counter() - began)
        before = self.shown
        points = end_effector_path(chunk.embodiment, chunk.actions, observation.state)
        self.shown, self.position = ChunkShown(chunk=chunk, points=points), 0
        if chunk.text and (before is None or before.chunk.text.get("subtask") != chunk.text.get("subtask")):
            return self._preview(observation)
        return True

    def _preview(self, observation: Observation) -> bool:
        """Show what is about to be done; False when a command came instead of the motion."""
        self.status = "about to move"
        self._show(observation.images)
        obeyed = self._obey(wait=max(self.settings.preview, 1e-3))
        if self.status == "about to move":
            self.status = "moving"
        return not obeyed and self.filter.stopped is None

    def _path(self) -> dict[str, Any]:
        """Where the cameras see now what the chunk wanted when it was made: one on the wrist moves."""
        project = getattr(self.environment, "project", None)
        return {} if project is None or self.shown is None or self.shown.points is None else project(self.shown.points)

    def _show(self, images: Mapping[str, np.ndarray] | None = None) -> None:
        """Publish the present moment."""
        self.publish(
            {
                "status": self.status,
                "message": self.message,
                "instruction": self.instruction,
                "scene": self.scene,
                "step": self.steps,
                "images": images_shown(images or self.environment.images()),
                "chunk": None if self.shown is None else self.shown.to_json(self._path()),
                "position": self.position,
                "latency": self.latency.to_json(),
                "interventions": self.filter.interventions,
                "reasons": dict(self.filter.counts),
                "stopped": self.filter.stopped is not None,
                "movable": hasattr(self.environment, "move_object"),
            }
        )


def _is_point(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1000 for v in value
    )  # fmt: skip
