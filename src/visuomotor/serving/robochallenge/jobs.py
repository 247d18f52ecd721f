"""The job loop: wait for jobs, start those that are ready, then look, infer and send chunks until each ends."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from visuomotor_client.chunking import check_chunk
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from visuomotor.contract import Observation
from visuomotor.serving.remote import FAILURES
from visuomotor.serving.robochallenge.connection import PlatformError
from visuomotor.serving.robochallenge.conventions import ROBOTS, Convention, Layout
from visuomotor.serving.robochallenge.platform import ENDED, Job, Platform
from visuomotor.serving.robochallenge.robot import Robot, RobotState
from visuomotor.serving.robochallenge.tasks import TASKS, Execution, table30
from visuomotor.session import PolicyLike, Session

__all__ = ["JobLoop", "JobReport", "JobSettings"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How jobs are done.

    prompt        what the policy is told; None takes the job's own (second generation), or that of `task`
    task          of Table30: its prompt, and how its chunks are executed; None takes the job's own
    generalist    execute as published generalists do, not as specialists
    plain         chunks are sent as the policy gives them, without a task's rules
    horizon, duration   in place of the task's (whole chunks at the policy's control rate where there is no task)
    safety        mode of the safety filter: clamp, reject or shadow
    limits        of the safety filter, beside those of the policy's embodiment
    seconds       after which a job is left alone; patience: seconds without any job to do after which the loop ends
    poll, pause   seconds between looks at the jobs, and at a robot that is not ready
    ended         looks at which all jobs must have ended before the loop ends
    failures      in a row (requests, states that cannot be used, chunks that are refused) after which a job is given up
    """

    prompt: str | None = None
    task: str | None = None
    generalist: bool = False
    plain: bool = False
    horizon: int | None = None
    duration: float | None = None
    safety: str = "clamp"
    limits: SafetyLimits = field(default_factory=SafetyLimits)
    seconds: float = 600.0
    patience: float = 3600.0
    poll: float = 1.0
    pause: float = 0.5
    ended: int = 10
    failures: int = 5

    def __post_init__(self) -> None:
        for name in ("seconds", "patience", "poll", "pause"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give more than 0 seconds.")
        for name in ("ended", "failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")


@dataclass(kw_only=True)
class JobReport:
    """What became of a job: the platform's last word, or why it was left; what was done; seconds of the policy's calls.

    seconds: since it was begun. interventions: of the safety filter, in actions.
    age: seconds between the robot's timestamp and the moment its state was here, by the common clock.
    """

    job: str
    outcome: str = ""
    looks: int = 0
    chunks: int = 0
    waits: int = 0
    failures: int = 0
    interventions: int = 0
    seconds: float = 0.0
    latency: list[float] = field(default_factory=list)
    age: list[float] = field(default_factory=list)


class JobLoop:
    """Does the jobs of a collection, one after the other.

    Args:
        cameras: see Layout. watch: called after every look, with the report as it stands.

    Raises:
        ValueError: the policy is for another robot, or nothing says what it should be told.
        PlatformError (run): the list of jobs cannot be had.
    """

    def __init__(
        self,
        platform: Platform,
        policy: PolicyLike,
        convention: Convention,
        settings: JobSettings | None = None,
        *,
        cameras: Mapping[str, str] | None = None,
        watch: Callable[[JobReport], None] = lambda report: None,
    ) -> None:
        if convention.generation != platform.generation:
            raise ValueError(
                f"The robot's convention is of generation {convention.generation}, the platform's interface of "
                f"{platform.generation}; give both the same."
            )
        self.platform, self.policy, self.convention = platform, policy, convention
        self.settings, self.watch = settings or JobSettings(), watch
        self.layout = Layout(convention, policy.embodiment, cameras)
        self.task = None if self.settings.task is None else table30(self.settings.task)
        self.reports: dict[str, JobReport] = {}

    def run(self, collection: str) -> list[JobReport]:
        """Until every job has ended, or none came for too long. A dry run looks at each job once and sends nothing."""
        settings, ended, failures, active = self.settings, 0, 0, time.monotonic()
        dry = self.platform.connection.show is not None
        while time.monotonic() - active < settings.patience:
            try:
                jobs, failures = self.platform.jobs(collection), 0
            except PlatformError:
                failures += 1
                if failures >= settings.failures:
                    raise
                jobs = None
            for job in jobs or ():
                if job.id not in self.reports and (
                    job.status in ("ready", "running") or (dry and job.status not in ENDED)
                ):
                    self.drive(job)
                    active = time.monotonic()
            if jobs is not None:
                over = all(job.status in ENDED or job.id in self.reports for job in jobs)
                ended = ended + 1 if over else 0
                if ended >= settings.ended or (dry and self.reports):
                    return list(self.reports.values())
            time.sleep(settings.poll)
        logger.warning("No job was ready for %.0f s; giving up the wait.", settings.patience)
        return list(self.reports.values())

    def drive(self, job: Job) -> JobReport:
        """One job, from wherever it stands."""
        report = self.reports[job.id] = JobReport(job=job.id)
        try:
            prompt, execution = self._plan(job)
            robot = self._robot(job)
            offset = robot.clock_offset()
            logger.info("Job %s: clock offset %.3f s, told %r, %s", job.id, offset, prompt, execution)
            rate = replace(self.policy.embodiment, control_hz=1 / execution.duration)
            drive = _Drive(
                loop=self,
                robot=robot,
                report=report,
                prompt=prompt,
                execution=execution,
                offset=offset,
                filter=SafetyFilter(rate, self.settings.limits, mode=self.settings.safety),
            )
            drive.filter.log_missing()
            if job.status != "running":
                self.platform.start(job.id)
            dry = self.platform.connection.show is not None
            report.outcome = drive.look_once() if dry else drive.until_it_ends(job)
        except FAILURES as error:  # a PlatformError is one of them
            report.failures += 1
            report.outcome = f"given up: {error}"
            logger.error("Job %s is given up: %s", job.id, error)
        self.watch(report)
        return report

    def _plan(self, job: Job) -> tuple[str, Execution]:
        """What the policy is told, and how its chunks are executed."""
        settings = self.settings
        task = self.task or TASKS.get(job.task or "")
        prompt = settings.prompt or job.prompt or (task.prompt if task else None)
        if not prompt:
            raise ValueError(f"Nothing says what job {job.id} asks for; give a prompt, or a task of Table30.")
        if task is not None and task.robot != self.convention.robot:
            raise ValueError(f"Task {task.name!r} is for {task.robot}, but the policy drives {self.convention.robot}.")
        if task is None or settings.plain:
            execution = Execution(duration=1 / self.policy.embodiment.control_hz)
        else:
            execution = task.generalist if settings.generalist else task.specialist
        given = {"horizon": settings.horizon, "duration": settings.duration}
        return prompt, replace(execution, **{name: value for name, value in given.items() if value is not None})

    def _robot(self, job: Job) -> Robot:
        kinds = [name for name in ROBOTS if name in (job.robot or "").lower()]
        if kinds and self.convention.robot not in kinds:
            raise ValueError(f"Job {job.id} is for {job.robot}, but the policy drives {self.convention.robot}.")
        robot_id = job.robot_id or self.platform.job(job.id).robot_id or job.robot
        if robot_id is None:
            raise PlatformError(f"The platform does not say which robot job {job.id} has.")
        return Robot(self.platform.connection, robot_id, self.convention.type)


@dataclass(kw_only=True)
class _Drive:
    """One job under way."""

    loop: JobLoop
    robot: Robot
    report: JobReport
    prompt: str
    execution: Execution
    offset: float
    filter: SafetyFilter
    session: Session = field(default_factory=Session)
    last: str = "normal"

    def until_it_ends(self, job: Job) -> str:
        """Look and act while the job runs; how it ended."""
        settings, failures = self.loop.settings, 0
        began = time.monotonic()
        while self.report.seconds < settings.seconds:
            try:
                status = self.loop.platform.job(job.id).status
                if status in ENDED:
                    return status
                acted = status == "running" and self._look()
                failures = 0 if acted else failures
            except FAILURES as error:
                failures += 1
                self.report.failures += 1
                logger.warning("Job %s, failure %d in a row: %s", job.id, failures, error)
                if failures >= settings.failures:
                    raise PlatformError(f"{failures} failures in a row, the last: {error}") from error
                acted = False
            self.report.seconds = time.monotonic() - began
            self.loop.watch(self.report)
            if not acted:
                self.report.waits += 1
                time.sleep(settings.pause)
        return f"left after {settings.seconds:g} s"

    def look_once(self) -> str:
        """A dry run's single look, as often as it takes within the failures that are allowed."""
        for left in reversed(range(self.loop.settings.failures)):
            try:
                return "shown" if self._look() else f"the robot is {self.last}"
            except FAILURES as error:
                self.report.failures += 1
                logger.warning("Job %s: %s", self.report.job, error)
                if not left:
                    raise
                time.sleep(self.loop.settings.pause)
        raise AssertionError

    def _look(self) -> bool:
        """Look, infer, send. False when the robot is not ready: nothing was done."""
        cameras = self.loop.layout.embodiment.cameras
        width, height = max(c.width for c in cameras), max(c.height for c in cameras)
        state = self.robot.state(list(self.loop.layout.cameras.values()), width, height)
        if state.state != self.last:
            logger.warning("Job %s: the robot is %s", self.report.job, state.state)
            self.last = state.state
        if not state.ready:
            return False
        self.report.looks += 1
        self.report.age.append(time.time() + self.offset - state.timestamp)
        wire, horizon = self._chunk(state)
        self.robot.act(wire, self.execution.duration)
        self.report.chunks += 1
        self.session.executed = horizon
        return True

    def _chunk(self, state: RobotState) -> tuple[np.ndarray, int]:
        """What is sent for a state, in the robot's numbers, and how many of the policy's actions that is."""
        layout, policy = self.loop.layout, self.loop.policy
        observation = Observation(
            images={own: state.picture(name) for own, name in layout.cameras.items()},
            state=layout.state(state.action),
            instruction=self.prompt,
        )
        began = time.perf_counter()
        chunk = policy.infer([observation], sessions=[self.session])[0]
        self.report.latency.append(time.perf_counter() - began)
        self.session.executed = 0  # until it was sent, and the platform has said that it arrived
        actions = self.execution.cut(check_chunk(chunk.actions, layout.embodiment.action_dim), layout.absolute_dims)
        wire = layout.actions(self._safe(actions, observation.state), state.action, self.execution.stretch)
        if layout.convention.joints:  # the limits of Table30 are those of joints
            wire = self.execution.clip(wire)
        return wire, len(actions)

    def _safe(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """A chunk that passed the safety filter, its first action compared with the measured state."""
        passed = self.filter.chunk(actions, state)
        self.report.interventions = self.filter.interventions
        if any(action is None for action in passed):
            raise ValueError(f"The safety filter let nothing pass ({', '.join(self.filter.counts)}); nothing was sent.")
        return np.array(passed)
