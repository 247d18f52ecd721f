"""Meta-World (50 tabletop tasks of a Sawyer arm) behind the common environment interface."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box

from visuomotor.contract import Annotation, Observation, Scenario
from visuomotor.embodiment import Camera, Component, Embodiment
from visuomotor.simulation.interface import Environment
from visuomotor.simulation.metaworld.annotation import ObjectProjector, project
from visuomotor.simulation.metaworld.experts import MetaWorldExpert
from visuomotor.simulation.metaworld.pairs import PREFIX, pair_of, start_midway
from visuomotor.simulation.metaworld.sentences import default_sentence
from visuomotor.simulation.metaworld.tasks import TASKS, resolve_tasks
from visuomotor.simulation.rendering import CameraRenderer, mujoco

__all__ = ["CONTROL_HZ", "METRES_PER_UNIT", "MetaWorldEnvironment", "sawyer_embodiment"]

CONTROL_HZ = 80.0
METRES_PER_UNIT = 0.01
_CAMERAS = {"corner2": "scene", "gripperPOV": "wrist"}
_CORNER2_POSITION = (
    0.75,
    0.075,
    0.7,
)  # nearer than the model file's, as LeRobot's Meta-World: objects fill the picture
_UPSIDE_DOWN = frozenset({"corner2"})


def sawyer_embodiment(cameras_px: int = 128, action_repeat: int = 2) -> Embodiment:
    """The Sawyer arm as Meta-World controls it.

    An action number of 1 moves the end-effector's reference by 0.01 m in each of the `action_repeat` physics control
    steps (80 Hz), so by 0.01 m times `action_repeat` per policy step; the arm follows with a lag.
    """
    xyz = ("x", "y", "z")
    return Embodiment(
        name="metaworld_sawyer",
        control_hz=CONTROL_HZ / action_repeat,
        cameras=tuple(Camera(name=n, role=r, height=cameras_px, width=cameras_px) for n, r in _CAMERAS.items()),
        state=(
            Component(
                name="eef_position",
                dims=xyz,
                kind="position",
                unit="m",
                low=(-0.525, 0.348, -0.0525),
                high=(0.525, 1.025, 0.7),
            ),
            Component(
                name="gripper",
                dims=("opening",),
                kind="gripper",
                unit="0.1 m",
                low=(0.0,),
                high=(1.0,),
                normalization="limits",
                opened=1.0,
                closed=0.0,
            ),
        ),
        action=(
            Component(
                name="eef_delta",
                dims=("dx", "dy", "dz"),
                kind="position",
                unit=f"{METRES_PER_UNIT * action_repeat:g} m",
                low=(-1.0,) * 3,
                high=(1.0,) * 3,
                reference="step",
                normalization="limits",
            ),
            Component(
                name="gripper",
                dims=("effort",),
                kind="gripper",
                unit="effort",
                low=(-1.0,),
                high=(1.0,),
                normalization="limits",
                opened=-1.0,
                closed=1.0,
            ),
        ),
    )


class MetaWorldEnvironment(Environment):
    """All 50 tasks and the pairs; the inner environment of a task is made at its first reset and kept.

    `action_repeat`: physics control steps (80 Hz) per policy step; 2 makes the experts' episodes 12 to 92 steps,
    42 on average, and costs them no success. `cameras_px`: side of the square pictures.

    Goal markers are never drawn, so where only a marker would show the goal (see `tasks.Task.hidden_goal`) no policy
    can know it. Success is the benchmark's own, reached at any physics control step.
    """

    name = "metaworld"
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        *,
        render_quality: str = "fast",
        cameras_px: int = 128,
        tasks: str | Sequence[str] | None = None,
        action_repeat: int = 2,
        max_steps: int = 200,
    ) -> None:
        if action_repeat < 1 or max_steps < 1 or cameras_px < 1:
            raise ValueError(
                f"action_repeat, max_steps and cameras_px must be at least 1, not {action_repeat}, {max_steps}, "
                f"{cameras_px}."
            )
        self.embodiment = sawyer_embodiment(cameras_px, action_repeat)
        self.render_quality, self.max_steps, self.action_repeat = render_quality, max_steps, action_repeat
        self.tasks = resolve_tasks(tasks)
        self.task, self.instruction = "", ""
        self.action_space = Box(-1.0, 1.0, (self.embodiment.action_dim,), np.float32)
        self.observation_space = Box(-np.inf, np.inf, (self.embodiment.state_dim,), np.float32)
        self._px = cameras_px
        self._inner: dict[str, Any] = {}
        self._renderers: dict[str, CameraRenderer] = {}
        self._projectors: dict[str, ObjectProjector] = {}
        self._started = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        scenario: Scenario | None = (options or {}).get("scenario")
        if scenario is None:
            draw = np.random.default_rng(seed)
            task = self.tasks[int(draw.integers(len(self.tasks)))]
            scenario = Scenario(environment=self.name, task=task, seed=int(draw.integers(2**31)))
        self.task = resolve_tasks(scenario.task)[0]
        self.instruction = scenario.instruction or default_sentence(self.task)
        self._reset_inner(scenario.seed)
        self.success, self._steps, self._gripper, self._switched = False, 0, -1.0, False
        self.measures = self.inner.evaluate_state(self.expert_observation, np.zeros(4, np.float32))[1]
        self._start_distances = self._distances()
        self._started = True
        return self.state(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._started:
            raise RuntimeError("step was called before reset: call reset first.")
        action = np.asarray(action, np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"A Meta-World action is 4 finite numbers (dx, dy, dz, gripper), not {action!r}.")
        action = action.clip(-1, 1)
        reward = 0.0
        for _ in range(self.action_repeat):
            self.expert_observation, reward, _, _, self.measures = self.inner.step(action)
            self.success = self.success or bool(self.measures["success"])
            if self.success:
                break
        self._steps += 1
        self._switched = bool((action[3] > 0) != (self._gripper > 0))
        self._gripper = float(action[3])
        return self.state(), float(reward), self.success, self._steps >= self.max_steps, self._info()

    def images(self, cameras: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        renderer = self._renderer()
        pictures = {}
        for camera in _CAMERAS if cameras is None else cameras:
            if camera not in _CAMERAS:
                raise ValueError(f"Unknown camera {camera!r}; Meta-World offers {', '.join(_CAMERAS)}.")
            picture = renderer.render(self.inner.data, camera)
            pictures[camera] = np.ascontiguousarray(picture[::-1, ::-1]) if camera in _UPSIDE_DOWN else picture
        return pictures

    def state(self) -> np.ndarray:
        inner = self.inner
        fingers = inner.data.body("rightclaw").xpos - inner.data.body("leftclaw").xpos
        opening = np.clip(np.linalg.norm(fingers) / 0.1, 0.0, 1.0)
        return np.append(inner.get_endeff_pos(), opening).astype(np.float32)

    def observe(self) -> Observation:
        return Observation(images=self.images(), state=self.state(), instruction=self.instruction)

    def annotate(self) -> Annotation:
        inner, projector = self.inner, self._projector()
        boxes, points = {}, {}
        for camera in _CAMERAS:
            turned = camera in _UPSIDE_DOWN
            boxes[camera] = projector.boxes(inner.data, camera, turned)
            pixel = project(inner.model, inner.data, camera, inner.tcp_center[None], turned)[0]
            if np.isfinite(pixel).all():
                x, y = (int(v) for v in np.clip(np.round(pixel * 1000), 0, 1000))
                points[camera] = (x, y)
        return Annotation(
            subtask="",
            boxes=boxes,
            point=points,
            progress=self.progress(),
            gripper_switch=self._switched,
            contact=projector.contact(inner.data),
        )

    def progress(self) -> float:
        """Progress 0-1, from distances: 1 after success; before it at most 0.95.

        0.3 for the hand's way to the object and 0.65 for the object's to its goal (the benchmark's own measure), each
        as the share of its distance at the start; where the hand itself is to reach a goal, its way counts 0.95. It
        falls when the arm goes back.
        """
        if self.success:
            return 1.0
        shares = [
            1 - min(now / start, 1.0) for now, start in zip(self._distances(), self._start_distances, strict=True)
        ]
        if TASKS[self.task.removeprefix(PREFIX)].reaching:
            return float(0.95 * shares[1])
        return float(0.3 * shares[0] + 0.65 * shares[1])

    def touching(self) -> bool:
        """True while the hand is in contact with one of the task's objects."""
        return self._projector().contact(self.inner.data)

    def expert(self, rng: np.random.Generator) -> MetaWorldExpert:
        return MetaWorldExpert(self, rng)

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    @property
    def inner(self) -> Any:
        """Meta-World's own environment of the present task."""
        if not self.task:
            raise RuntimeError("The environment has no task yet: call reset first.")
        return self._inner[self.task.removeprefix(PREFIX)]

    def _reset_inner(self, seed: int) -> None:
        benchmark_name = self.task.removeprefix(PREFIX)
        if benchmark_name not in self._inner:
            self._inner[benchmark_name] = _make_inner(benchmark_name)
        inner, generator, pair = self.inner, np.random.default_rng(seed), pair_of(self.task)
        inner.max_path_length = 10**9  # beyond it a step would be refused, but `play` goes on
        inner.np_random = generator
        inner._freeze_rand_vec = pair is not None
        if pair is not None:
            inner._last_rand_vec = generator.uniform(pair.low, pair.high)
        inner.reset()
        if pair is not None:
            start_midway(pair, inner)
        mujoco.mj_forward(inner.model, inner.data)  # Meta-World leaves poses as they were before it moved the object
        inner._prev_obs = inner._get_curr_obs_combined_no_goal()
        self.expert_observation = inner._get_obs()

    def _distances(self) -> tuple[float, float]:
        hand_to_object = float(np.linalg.norm(self.inner.tcp_center - self.expert_observation[4:7]))
        return max(hand_to_object, 1e-6), max(float(self.measures["obj_to_target"]), 1e-6)

    def _info(self) -> dict[str, Any]:
        return {"success": self.success, "progress": self.progress(), "instruction": self.instruction}

    def _renderer(self) -> CameraRenderer:
        key = self.task.removeprefix(PREFIX)
        inner = self.inner
        if key not in self._renderers:
            if len(self._renderers) >= 4:  # a graphics context holds all meshes: keep few
                self._renderers.pop(next(iter(self._renderers))).close()
            self._renderers[key] = CameraRenderer(inner.model, self._px, self._px, self.render_quality)
        return self._renderers[key]

    def _projector(self) -> ObjectProjector:
        key = self.task.removeprefix(PREFIX)
        if key not in self._projectors:
            self._projectors[key] = ObjectProjector(self.inner.model, TASKS[key].objects)
        return self._projectors[key]


def _make_inner(name: str) -> Any:
    """Meta-World's environment, seeded by its own generator only, with goals in its observation but not drawn."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    inner = ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
    inner._partially_observable = False
    inner.__dict__.pop("sawyer_observation_space", None)  # cached for the other observability
    inner.seeded_rand_vec, inner._freeze_rand_vec, inner._set_task_called = True, False, True
    inner.model.site_rgba[:, 3] = 0.0
    inner.model.camera("corner2").pos[:] = _CORNER2_POSITION
    return inner
