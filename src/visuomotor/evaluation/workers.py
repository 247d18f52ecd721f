"""Workers of an evaluation: each steps several environments in lockstep and returns the observations for the policy.

A worker answers every `Round` with one `Report`, so that the main process gets one batch of observations per worker
and round. Workers never load the policy.
"""

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from visuomotor_client.chunking import ChunkError, ChunkRequest
from visuomotor_client.controller import Controller
from visuomotor_client.executors import make_executor
from visuomotor_client.safety import SafetyFilter

from visuomotor.contract import Observation
from visuomotor.evaluation.controls import Job
from visuomotor.evaluation.results import EpisodeRecord
from visuomotor.evaluation.smoothness import jerks
from visuomotor.evaluation.video import Caption, Frame, stride, write_sheet, write_video
from visuomotor.simulation.interface import Environment, WorldSpec, make_environment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every rollout of an evaluation has in common.

    `latency`: seconds of the world's clock after which a chunk is there.
    """

    world: str | WorldSpec
    options: dict[str, Any]
    execute: int
    max_steps: int | None
    out: Path
    executor: str = "receding_horizon"
    latency: float = 0.0
    safety: str = "clamp"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Begin a job in a slot; `film` says which outcomes are wanted as video (success, failure)."""

    job: Job
    film: tuple[bool, bool] = (False, False)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The policy's chunk for one slot: actions [T, A] in robot units, text, marks, routing; or why it has none."""

    actions: np.ndarray | None
    text: str = ""
    marks: dict[str, Any] = field(default_factory=dict)
    router: tuple[float, int] | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a worker does next, by slot: run the answers' actions, begin new jobs."""

    answers: dict[int, Answer] = field(default_factory=dict)
    starts: dict[int, Start] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a round, by slot: observations that wait for the policy, and finished episodes.

    `requests`: what the policy is told beside an observation, where the executor has something to tell.
    """

    looks: dict[int, Observation] = field(default_factory=dict)
    requests: dict[int, ChunkRequest] = field(default_factory=dict)
    finished: dict[int, EpisodeRecord] = field(default_factory=dict)


class Rollout:
    """One environment that runs one job after another."""

    def __init__(self, setup: Setup, environment: Environment) -> None:
        self.setup, self.environment = setup, environment
        self.control_hz = environment.embodiment.control_hz
        # An answer is used at the first control step at which it is there.
        self.delay = math.ceil(setup.latency * self.control_hz - 1e-9)

    def start(self, start: Start) -> None:
        """Reset to the job's scenario."""
        self.job, self.film = start.job, start.film
        self.step = self.limit = 0
        self.success, self.progress, self.ended = False, 0.0, False
        self.error: str | None = None
        self.text: list[tuple[int, str]] = []
        self.router: list[tuple[int, float, int]] = []
        self.stages: dict[str, float] = {}
        self.marks: dict[str, Any] = {}
        self.frames: list[Frame] = []
        self.render_seconds = self.simulation_seconds = 0.0
        self.commands: list[np.ndarray] = []
        embodiment = self.environment.embodiment
        executor = make_executor(self.setup.executor, embodiment, execute=self.setup.execute)
        self.controller = Controller(executor, SafetyFilter(embodiment, mode=self.setup.safety))
        self.instruction = self.job.instruction or ""
        with self._guard():
            instruction = self.job.instruction
            if self.job.borrow is not None:
                self.environment.reset(options={"scenario": self.job.borrow})
                instruction = self.environment.instruction
            self.environment.reset(options={"scenario": self.job.scenario})
            self.instruction = self.environment.instruction if instruction is None else instruction
            own = self.environment.max_steps
            self.limit = own if self.setup.max_steps is None else min(self.setup.max_steps, own)

    def look(self) -> tuple[Observation, ChunkRequest | None]:
        """What the policy sees now, and is told beside it: rendered only here, and where a video is kept."""
        cameras = self.environment.embodiment.cameras
        if self.job.black:
            images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in cameras}
        else:
            images = self._render()
        state, now = self.environment.state(), self.step / self.control_hz
        self.controller.observe(state, now)
        request = self.controller.request()
        return Observation(images=images, state=state, instruction=self.instruction, time=now), request

    def advance(self, answer: Answer) -> None:
        """Go on until the chunk is there, then until the policy must look again, or until the episode ends."""
        if answer.text and (not self.text or self.text[-1][1] != answer.text):
            self.text.append((self.step, answer.text))
        self.marks = answer.marks
        if answer.router is not None:
            self.router.append((self.step, *answer.router))
        with self._guard():
            if answer.actions is None:
                raise ChunkError(answer.error)
            for _ in range(self.delay):
                self._control()
            if not self.ended:
                self.controller.answer(answer.actions)
            while not self.controller.needs_chunk and not self.ended:
                self._control()

    def _control(self) -> None:
        """One control step, unless the episode has ended."""
        if self.ended:
            return
        self._film()
        self.controller.observe(self.environment.state(), self.step / self.control_hz)
        command = self.controller.act()
        if command is None:
            raise ChunkError("There is no command within the safety limits, and none before that could be held.")
        self.commands.append(command)
        began = time.perf_counter()
        _, _, terminated, truncated, info = self.environment.step(command)
        self.simulation_seconds += time.perf_counter() - began
        self.step += 1
        self.success = self.success or bool(info["success"])
        self.progress = max(self.progress, float(info.get("progress", self.success)))
        for name, done in info.get("stages", {}).items():
            self.stages[name] = max(self.stages.get(name, 0.0), float(done))
        self.ended = self.success or terminated or truncated or self.step >= self.limit

    def record(self) -> EpisodeRecord:
        """The finished episode; writes its video if this outcome is wanted."""
        video = sheet = None
        if self.film[0 if self.success else 1]:
            with contextlib.suppress(Exception) if self.error else contextlib.nullcontext():
                video, sheet = self._write_video()
        rate, safety = self.control_hz, self.controller.safety
        jerk, seam_jerk = jerks(np.array(self.commands), self.controller.seams, self.environment.embodiment)
        return EpisodeRecord(
            condition=self.job.condition,
            index=self.job.index,
            split=self.job.scenario.split,
            control=self.job.control,
            scenario=asdict(self.job.scenario),
            instruction=self.instruction,
            success=self.success,
            steps=self.step,
            seconds=self.step / rate if self.success else None,
            progress=self.progress,
            max_steps=self.limit,
            render_seconds=self.render_seconds,
            simulation_seconds=self.simulation_seconds,
            text=tuple(self.text),
            router=tuple(self.router),
            stages=tuple(self.stages.items()),
            stalls=self.controller.stalls,
            jerk=jerk,
            seam_jerk=seam_jerk,
            interventions=dict(safety.counts),
            intervened=safety.interventions,
            error=self.error,
            video=video,
            sheet=sheet,
        )

    @contextlib.contextmanager
    def _guard(self) -> Any:
        """An episode that cannot go on is a recorded failure; the others continue."""
        try:
            yield
        except ChunkError as error:
            self.error, self.ended = str(error), True
        except Exception as error:
            logger.exception("The environment failed in %s at step %d", self.job.scenario, self.step)
            self.error, self.ended = f"The environment raised {type(error).__name__}: {error}", True
        if self.error:
            self.success = False

    def _render(self) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        images = {name: np.ascontiguousarray(image) for name, image in self.environment.images().items()}
        self.render_seconds += time.perf_counter() - began
        if any(self.film) and (not self.frames or self.frames[-1].step != self.step):
            self._keep(images)
        return images

    def _film(self) -> None:
        if not any(self.film):
            return
        due = self.step % stride(self.environment.embodiment.control_hz) == 0
        if due and (not self.frames or self.frames[-1].step != self.step):
            self._render()
        elif due and self.frames[-1].step == self.step and self.text:
            last = self.frames.pop()  # filmed when the policy looked, before it said this
            self.frames.append(Frame(images=last.images, step=last.step, text=self.text[-1][1], marks=self.marks))

    def _keep(self, images: Mapping[str, np.ndarray]) -> None:
        if self.step % stride(self.environment.embodiment.control_hz) == 0 or self.ended:
            said = self.text[-1][1] if self.text else ""
            self.frames.append(Frame(images=images, step=self.step, text=said, marks=self.marks))

    def _write_video(self) -> tuple[str, str]:
        self._render()
        hz = self.environment.embodiment.control_hz
        outcome = (
            f"success after {self.step / hz:.1f} s" if self.success else self.error or f"failed in {self.step} steps"
        )
        black = "   the policy sees black" if self.job.black else ""
        heading = f"{self.job.condition}   counted: {self.job.scenario.task}{black}"
        caption = Caption(heading=heading, instruction=self.instruction, success=self.success, outcome=outcome)
        folder = self.setup.out / "videos"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.job.condition}_{self.job.index:04d}"
        write_video(folder / f"{name}.mp4", self.frames, caption, hz)
        write_sheet(folder / f"{name}.png", self.frames, caption)
        return f"videos/{name}.mp4", f"videos/{name}.png"


class RolloutWorker:
    """Lives in a worker: environments by slot, and the rollouts in them. Called with every Round."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.rollouts: dict[int, Rollout] = {}

    def __call__(self, received: Round) -> Report:
        looks, requests, finished = {}, {}, {}
        rollouts = self.rollouts
        for slot, start in received.starts.items():
            if slot not in rollouts:
                rollouts[slot] = Rollout(self.setup, make_environment(self.setup.world, **self.setup.options))
            rollouts[slot].start(start)
        for slot, answer in received.answers.items():
            rollouts[slot].advance(answer)
        for slot in sorted({*received.starts, *received.answers}):
            rollout = rollouts[slot]
            if not rollout.ended:
                with rollout._guard():
                    looks[slot], request = rollout.look()
                    if request is not None:
                        requests[slot] = request
            if rollout.ended:
                finished[slot] = rollout.record()
        return Report(looks=looks, requests=requests, finished=finished)

    def close(self) -> None:
        """Close the environments."""
        for rollout in self.rollouts.values():
            rollout.environment.close()
