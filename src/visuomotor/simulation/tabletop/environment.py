"""The tabletop environment: one small arm, coloured objects, and a sentence that says what to do with them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from visuomotor.contract import Annotation, Camera, Component, Embodiment, Scenario
from visuomotor.simulation.interface import Environment
from visuomotor.simulation.rendering import CameraRenderer, mujoco
from visuomotor.simulation.tabletop.annotate import Projection, boxes, project
from visuomotor.simulation.tabletop.arm import (
    ROTATION_LIMIT,
    STEP_ROTATION,
    STEP_TRANSLATION,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    ArmController,
)
from visuomotor.simulation.tabletop.combinations import scenarios
from visuomotor.simulation.tabletop.experts import TabletopExpert
from visuomotor.simulation.tabletop.grammar import instruction
from visuomotor.simulation.tabletop.objects import hide_slot, set_slot
from visuomotor.simulation.tabletop.predicates import TaskMonitor
from visuomotor.simulation.tabletop.rearrange import move_object
from visuomotor.simulation.tabletop.scene import BOWLS, TIMESTEP, compile_scene
from visuomotor.simulation.tabletop.state import SceneState, set_pose
from visuomotor.simulation.tabletop.taskspec import TaskSpec, get_vocabulary
from visuomotor.simulation.tabletop.variation import Layout, Variation, sample_layout, sample_start, stream, vary_model
from visuomotor.spelling import did_you_mean

__all__ = ["EMBODIMENT", "TabletopEnvironment"]

CONTROL_HZ = 10.0
SUBSTEPS = round(1 / CONTROL_HZ / TIMESTEP)
MOST_NAMED = 2  # objects that a task can name: goal and reference


def _embodiment(pixels: int) -> Embodiment:
    state = (
        Component(
            name="eef_position",
            dims=("x", "y", "z"),
            kind="position",
            unit="m",
            low=tuple(float(v) for v in WORKSPACE_LOW),
            high=tuple(float(v) for v in WORKSPACE_HIGH),
            normalization="limits",
        ),
        Component(
            name="eef_rotation",
            dims=("rx", "ry", "rz"),
            kind="rotation",
            unit="rad",
            rotation="axis_angle",
            low=tuple(float(-v) for v in ROTATION_LIMIT),
            high=tuple(float(v) for v in ROTATION_LIMIT),
            normalization="limits",
        ),
        Component(
            name="gripper",
            dims=("gripper",),
            kind="gripper",
            unit="opening",
            low=(0.0,),
            high=(1.0,),
            opened=1.0,
            closed=0.0,
            normalization="limits",
        ),
    )
    action = (
        replace(
            state[0],
            name="eef_translation",
            dims=("dx", "dy", "dz"),
            reference="step",
            low=(-STEP_TRANSLATION,) * 3,
            high=(STEP_TRANSLATION,) * 3,
        ),
        replace(
            state[1],
            dims=("drx", "dry", "drz"),
            reference="step",
            low=(-STEP_ROTATION,) * 3,
            high=(STEP_ROTATION,) * 3,
        ),
        replace(state[2], unit="command", low=(-1.0,), high=(1.0,), opened=1.0, closed=-1.0),
    )
    cameras = tuple(Camera(name=name, role=name, height=pixels, width=pixels) for name in ("scene", "wrist"))
    return Embodiment(name="tabletop_arm", control_hz=CONTROL_HZ, cameras=cameras, state=state, action=action)


EMBODIMENT = _embodiment(128)
_LOW = np.array([v for c in EMBODIMENT.action for v in c.low or ()])
_HIGH = np.array([v for c in EMBODIMENT.action for v in c.high or ()])


class TabletopEnvironment(Environment):
    """See visuomotor.simulation.interface. Options are the fields of Variation."""

    name = "tabletop"

    def __init__(
        self,
        *,
        render_quality: str = "fast",
        cameras_px: int = 128,
        vocabulary: str = "small",
        max_steps: int | None = None,
        **variation: Any,
    ) -> None:
        if not 16 <= cameras_px <= 2048:
            raise ValueError(f"cameras_px is {cameras_px}; it must be between 16 and 2048 pixels.")
        self.variation = _variation(Variation(), variation)
        self.vocabulary = get_vocabulary(vocabulary).name
        self.render_quality, self.max_steps, self._max_steps = render_quality, 0, max_steps
        self.embodiment = _embodiment(cameras_px)
        self.action_space = Box(_LOW.astype(np.float32), _HIGH.astype(np.float32))
        self.observation_space = Box(-np.inf, np.inf, (self.embodiment.state_dim,), np.float32)
        self._slots = self.variation.distractors + MOST_NAMED
        self._model, self._original = compile_scene(self._slots), compile_scene(self._slots)
        self._data = mujoco.MjData(self._model)
        self._renderer = CameraRenderer(self._model, cameras_px, cameras_px, render_quality)
        self._arm = ArmController(self._model)
        self.scene = SceneState(self._model, self._data, self._slots)
        self._projections = {c.name: Projection(self._model, c.name) for c in self.embodiment.cameras}
        self.scenario: Scenario | None = None
        self.monitor = TaskMonitor(spec=TaskSpec("press_button"))
        self.instruction, self._steps = "", 0

    @property
    def task(self) -> TaskSpec:
        """The task on which success is judged."""
        return self.monitor.spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start `options["scenario"]`, or a random training scenario. A scenario's own `options` override the
        environment's variation; its `instruction` replaces the sentence only, success is judged on its task."""
        gymnasium.Env.reset(self, seed=seed)  # the interface in between only declares it
        scenario = (options or {}).get("scenario")
        if scenario is None:
            drawn = int(self.np_random.integers(2**31))
            scenario = scenarios("train", 1, drawn, vocabulary=self.vocabulary)[0]
        spec = TaskSpec.parse(scenario.task)
        known = {k: v for k, v in scenario.options.items() if k not in ("vocabulary", "kind")}
        variation = _variation(self.variation, known)
        vocabulary = scenario.options.get("vocabulary", self.vocabulary)
        layout = sample_layout(spec, vocabulary, variation, stream(scenario.seed, "layout"))
        if len(layout.objects) > self._slots:
            raise ValueError(
                f"Scenario {scenario.task!r} needs {len(layout.objects)} objects but this environment was made with "
                f"{self._slots} slots; make it with distractors={variation.distractors}."
            )
        self.scenario = scenario
        self.instruction = scenario.instruction or instruction(spec)
        self.max_steps = self._max_steps or 160 * max(1, len(spec.steps))
        self._furnish(layout, variation, scenario.seed)
        start, opening = sample_start(layout, variation.anywhere, scenario.seed)
        self._arm.place(self._data, start, np.zeros(3), opening)
        mujoco.mj_forward(self._model, self._data)
        self._start(spec)
        return self.state(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 0.1 s; actions beyond the limits are clipped. The reward is the gain in progress."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != _LOW.shape or not np.isfinite(action).all():
            raise ValueError(
                f"Expected a finite action of shape {_LOW.shape} (translation, rotation, gripper), "
                f"got shape {action.shape}: {np.array2string(action, precision=3, threshold=8)}."
            )
        before = self.monitor.progress
        self._arm.command(self._data, np.clip(action, _LOW, _HIGH), SUBSTEPS)
        self._steps += 1
        self.monitor.update(self.scene)
        terminated = self.monitor.success or self.monitor.failed
        truncated = not terminated and self._steps >= self.max_steps
        return self.state(), self.monitor.progress - before, terminated, truncated, self._info()

    def images(self, cameras: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Render uint8[h, w, 3] for the named cameras (default: all of the embodiment's)."""
        names = tuple(self._projections) if cameras is None else cameras
        unknown = [name for name in names if name not in self._projections]
        if unknown:
            raise ValueError(f"There is no camera {unknown[0]!r}; this environment has {', '.join(self._projections)}.")
        return {name: self._renderer.render(self._data, name) for name in names}

    def state(self) -> np.ndarray:
        """float32[7]: end-effector position (m), rotation from home (axis-angle, rad), gripper opening (0-1)."""
        position, rotation, opening = self._arm.measured(self._data)
        return np.array([*position, *rotation, np.clip(opening, 0, 1)], dtype=np.float32)

    def annotate(self) -> Annotation:
        """Boxes of every named object and piece of furniture in view, also of those the task does not need."""
        return Annotation(
            subtask="",
            boxes={name: boxes(projection, self.scene) for name, projection in self._projections.items()},
            point={name: project(p, self._data, self.scene.eef) for name, p in self._projections.items()},
            progress=self.monitor.progress,
            gripper_switch=False,
            contact=self.scene.contact,
        )

    def project(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """{camera: [n, 2]}: where points [n, 3] (m, base frame) are seen, 0-1000, also beyond the image's edges; NaN
        where they lie behind the camera."""
        seen = {name: projection(self._data, points) for name, projection in self._projections.items()}
        return {name: np.where(depth[:, None] > 0.01, places * 1000, np.nan) for name, (places, depth) in seen.items()}

    def move_object(self, camera: str, start: tuple[float, float], end: tuple[float, float]) -> str:
        """Put the object that a camera sees at `start` to where it sees `end` (0-1000); its name. See rearrange.py."""
        return move_object(self.scene, self._projections[camera], self.annotate().boxes[camera], start, end)

    def expert(self, rng: np.random.Generator) -> TabletopExpert:
        """A scripted expert for the present scenario; `rng` varies its speed, heights and grasp offset."""
        return TabletopExpert(self.scene, self.monitor, rng)

    def shuffle(self, rng: np.random.Generator) -> None:
        """Rearrange everything at random for single pictures: objects, furniture, arm; no physics, no task.

        Objects also appear in bowls and between the fingers. Afterwards `images`, `state` and `annotate` hold for the
        new arrangement; call `reset` before stepping again.
        """
        seed = int(rng.integers(2**31))
        spec = TaskSpec.parse(scenarios("train", 1, seed, vocabulary=self.vocabulary)[0].task)
        layout = sample_layout(spec, self.vocabulary, self.variation, rng)
        self._furnish(layout, self.variation, seed)
        self.scene.objects = layout.objects
        heights = [o.geometry.half_height for o in layout.objects]
        if layout.objects and rng.random() < 0.3:
            bowl = layout.bowls[str(rng.choice(list(BOWLS)))]
            set_pose(self._model, self._data, 0, np.append(bowl + rng.uniform(-0.02, 0.02, 2), heights[0] + 0.007))
        eef = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
        eef[2] = max(eef[2], 0.13 if eef[1] > 0.08 else 0.085)
        opening = float(rng.uniform())
        if layout.objects and rng.random() < 0.3:
            held = len(layout.objects) - 1
            opening = layout.objects[held].geometry.size[0] / 0.046
            set_pose(self._model, self._data, held, eef + np.array([0.0, 0.0, min(0.0, 0.02 - heights[held])]))
        turn = np.array([0.0, 0.0, rng.uniform(-0.5, 0.5) if self.variation.object_yaw else 0.0])
        self._arm.place(self._data, eef, turn, opening)
        mujoco.mj_forward(self._model, self._data)
        self._start(spec)

    def options(self) -> dict[str, Any]:
        """What the environment was made with, for records."""
        return {"render_quality": self.render_quality, "vocabulary": self.vocabulary, **asdict(self.variation)}

    def close(self) -> None:
        self._renderer.close()

    def _furnish(self, layout: Layout, variation: Variation, seed: int) -> None:
        model, data = self._model, self._data
        for k in range(self._slots):
            if k < len(layout.objects):
                set_slot(model, k, layout.objects[k])
            else:
                hide_slot(model, k)
        for name, place in (*layout.bowls.items(), ("cabinet", layout.cabinet)):
            model.body_pos[model.body(name).id, :2] = place
        vary_model(model, self._original, variation, seed)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        for k, item in enumerate(layout.objects):
            set_pose(model, data, k, np.append(layout.places[k], item.geometry.half_height + 2e-4), layout.yaws[k])
        for k in range(len(layout.objects), self._slots):
            set_pose(model, data, k, np.array([float(k), 3.0, -5.0]))
        data.qpos[model.joint("drawer").qposadr[0]] = layout.drawer
        self.scene.objects = layout.objects

    def _start(self, spec: TaskSpec) -> None:
        self._steps = 0
        self.scene.start = np.array([self.scene.position(k).copy() for k in range(len(self.scene.objects))])
        self.scene.eef_start = self.scene.eef.copy()
        self.monitor = TaskMonitor(spec=spec)
        self.monitor.update(self.scene, moved=False)

    def _info(self) -> dict[str, Any]:
        return {
            "success": self.monitor.success,
            "progress": self.monitor.progress,
            "instruction": self.instruction,
            "stages": dict(self.monitor.stages),
        }


def _variation(base: Variation, options: dict[str, Any]) -> Variation:
    known = set(asdict(base))
    unknown = sorted(set(options) - known)
    if unknown:
        there = sorted({*known, "tasks", "vocabulary"})
        hint = did_you_mean(unknown[0], there)
        raise ValueError(f"Unknown tabletop option {unknown[0]!r}.{hint} There are {', '.join(there)}.")
    return replace(base, **options)
