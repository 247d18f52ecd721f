"""The arm: six joints and a parallel gripper as an MJCF fragment, driven to end-effector targets by inverse kinematics.

Frame of everything here (the embodiment's `base` frame): origin in the table's centre, x to the right and y away from
somebody who looks through the scene camera, z up. The arm stands behind the table and reaches towards the viewer.
The end-effector frame has its origin between the finger pads; its home orientation, fingers straight down, is the
identity rotation.
"""

from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco

__all__ = [
    "ARM_XML",
    "FINGER_TRAVEL",
    "HOME",
    "ROTATION_LIMIT",
    "STEP_ROTATION",
    "STEP_TRANSLATION",
    "WORKSPACE_HIGH",
    "WORKSPACE_LOW",
    "ArmController",
    "rotation_matrix",
    "rotation_vector",
]

HOME = np.array([0.0, -0.05, 0.20])  # end-effector position at the start of an episode, m
WORKSPACE_LOW = np.array([-0.27, -0.23, 0.012])
WORKSPACE_HIGH = np.array([0.27, 0.22, 0.28])
ROTATION_LIMIT = np.array([0.6, 0.6, 1.6])  # largest tilt and turn away from home, rad
STEP_TRANSLATION = 0.03  # m per control step and axis
STEP_ROTATION = 0.2  # rad per control step and axis
FINGER_TRAVEL = 0.046  # m per finger; the gripper opens twice as far
JOINTS = ("yaw", "shoulder", "elbow", "wrist_pitch", "wrist_roll", "wrist_yaw")
LEASH = 0.04  # m; how far the commanded target may run ahead of an arm that is held back

ARM_XML = """
    <body gravcomp="1" name="arm_base" pos="0 0.5 0" childclass="arm">
      <geom type="cylinder" size=".055 .13" pos="0 0 .13" rgba=".30 .31 .34 1"/>
      <body gravcomp="1" name="turret" pos="0 0 .3">
        <joint name="yaw" axis="0 0 1" range="-1.5 1.5"/>
        <geom type="box" size=".05 .05 .045"/>
        <body gravcomp="1" name="upper_arm">
          <joint name="shoulder" axis="1 0 0" range="-1.5 1.7"/>
          <geom type="box" size=".032 .032 .2" pos="0 0 .2" rgba=".90 .90 .91 1"/>
          <body gravcomp="1" name="forearm" pos="0 0 .4">
            <joint name="elbow" axis="1 0 0" range="-1.4 2.2"/>
            <geom type="box" size=".045 .04 .04"/>
            <geom type="box" size=".027 .2 .027" pos="0 -.2 0" rgba=".90 .90 .91 1"/>
            <body gravcomp="1" name="wrist" pos="0 -.4 0">
              <joint name="wrist_pitch" axis="1 0 0" range="-2.6 1.6"/>
              <geom type="box" size=".032 .028 .028"/>
              <body gravcomp="1" name="wrist2">
                <joint name="wrist_roll" axis="0 1 0" range="-1.2 1.2"/>
                <geom type="box" size=".02 .032 .02"/>
                <body gravcomp="1" name="hand">
                  <joint name="wrist_yaw" axis="0 0 1" range="-3 3"/>
                  <geom type="box" size=".018 .018 .03" pos="0 0 -.035" rgba=".90 .90 .91 1"/>
                  <geom name="palm" class="touch" type="box" size=".056 .014 .010" pos="0 0 -.073"/>
                  <site name="tcp" pos="0 0 -.165" size=".004" rgba="0 0 0 0"/>
                  <camera name="wrist" pos="0 -.085 -.05" xyaxes="1 0 0 0 .86 .51" fovy="72"/>
                  <body gravcomp="1" name="finger_left">
                    <joint name="finger_left" class="finger" axis="-1 0 0"/>
                    <geom class="finger" type="box" size=".006 .011 .046" pos="-.006 0 -.129"/>
                    <geom name="finger_left_tip" class="pad" pos="-.006 0 -.169"/>
                    <geom name="finger_left_mid" class="pad" pos="-.006 0 -.150"/>
                    <geom name="finger_left_top" class="pad" pos="-.006 0 -.125"/>
                  </body>
                  <body gravcomp="1" name="finger_right">
                    <joint name="finger_right" class="finger" axis="1 0 0"/>
                    <geom class="finger" type="box" size=".006 .011 .046" pos=".006 0 -.129"/>
                    <geom name="finger_right_tip" class="pad" pos=".006 0 -.169"/>
                    <geom name="finger_right_mid" class="pad" pos=".006 0 -.150"/>
                    <geom name="finger_right_top" class="pad" pos=".006 0 -.125"/>
                  </body>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""

ARM_DEFAULTS_XML = """
    <default class="arm">
      <joint type="hinge" damping="1" armature=".02"/>
      <geom contype="0" conaffinity="0" density="300" rgba=".30 .31 .34 1"/>
      <default class="touch">
        <geom contype="1" conaffinity="1" friction="1.6 .02 .001" condim="4" density="400" rgba=".20 .21 .23 1"/>
      </default>
      <default class="pad">
        <geom type="capsule" size=".006 .007" euler="1.5708 0 0" contype="1" conaffinity="1" friction="1.6 .02 .001"
          group="3" rgba="0 0 0 0"/>
      </default>
      <default class="finger">
        <geom rgba=".20 .21 .23 1"/>
        <joint type="slide" range="0 .046" damping="3" armature=".6"/>
      </default>
    </default>"""

ARM_ACTUATORS_XML = """
    <position joint="yaw" kp="1600" dampratio="1"/>
    <position joint="shoulder" kp="2400" dampratio="1"/>
    <position joint="elbow" kp="1600" dampratio="1"/>
    <position joint="wrist_pitch" kp="240" dampratio="1"/>
    <position joint="wrist_roll" kp="240" dampratio="1"/>
    <position joint="wrist_yaw" kp="120" dampratio="1"/>
    <position joint="finger_left" kp="800" dampratio="1" forcerange="-9 9" ctrlrange="-.01 .046"/>
    <position joint="finger_right" kp="800" dampratio="1" forcerange="-9 9" ctrlrange="-.01 .046"/>"""


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of an axis-angle vector (rad)."""
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, vector / max(np.linalg.norm(vector), 1e-12), np.linalg.norm(vector))
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Axis-angle vector (rad) of a rotation matrix [3, 3]."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


class ArmController:
    """Turns end-effector delta actions into joint targets by damped least squares, on its own kinematic copy."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kinematics = mujoco.MjData(model)
        joints = [model.joint(name) for name in JOINTS]
        self._qpos = np.array([j.qposadr[0] for j in joints])
        self._dof = np.array([j.dofadr[0] for j in joints])
        self._range = np.array([j.range for j in joints]).T
        self._fingers = np.array([model.joint(n).qposadr[0] for n in ("finger_left", "finger_right")])
        self._site = model.site("tcp").id
        self._jacobian = np.zeros((6, model.nv))
        self._home_joints = self._solve(np.zeros(len(JOINTS)), HOME, np.eye(3), iterations=100)
        self.position, self.rotation = HOME.copy(), np.zeros(3)
        self._joints = self._home_joints.copy()
        self._grip = FINGER_TRAVEL

    def place(self, data: Any, position: np.ndarray, rotation: np.ndarray, opening: float = 1.0) -> None:
        """Put the arm there at rest: `position` m, `rotation` axis-angle from home, `opening` 0-1."""
        self.position, self.rotation = np.clip(position, WORKSPACE_LOW, WORKSPACE_HIGH), np.array(rotation, float)
        self._joints = self._solve(self._home_joints, self.position, rotation_matrix(self.rotation), iterations=50)
        self._grip = opening * FINGER_TRAVEL
        data.qpos[self._qpos], data.qpos[self._fingers] = self._joints, self._grip
        data.ctrl[: len(JOINTS)], data.ctrl[len(JOINTS) :] = self._joints, self._grip

    def measured(self, data: Any) -> tuple[np.ndarray, np.ndarray, float]:
        """Position (m), rotation from home (axis-angle) and opening (0-1) of the end-effector now."""
        rotation = rotation_vector(data.site_xmat[self._site].reshape(3, 3))
        return data.site_xpos[self._site].copy(), rotation, float(data.qpos[self._fingers].mean() / FINGER_TRAVEL)

    def command(self, data: Any, action: np.ndarray, substeps: int) -> None:
        """Follow one clipped action [7] for `substeps` physics steps; the joint targets move steadily."""
        here = data.site_xpos[self._site]
        self.position = here + np.clip(self.position - here, -LEASH, LEASH)
        self.position = np.clip(self.position + action[:3], WORKSPACE_LOW, WORKSPACE_HIGH)
        turned = rotation_vector(rotation_matrix(action[3:6]) @ rotation_matrix(self.rotation))
        self.rotation = np.clip(turned, -ROTATION_LIMIT, ROTATION_LIMIT)
        start = self._joints
        self._joints = self._solve(start, self.position, rotation_matrix(self.rotation), iterations=4)
        closed = -0.01  # beyond contact, so that the fingers press
        data.ctrl[len(JOINTS) :] = closed + (action[6] + 1) / 2 * (FINGER_TRAVEL - closed)
        for k in range(1, substeps + 1):  # no jumps: they would shake objects out of the fingers
            data.ctrl[: len(JOINTS)] = start + k / substeps * (self._joints - start)
            mujoco.mj_step(self.model, data)

    def _solve(self, joints: np.ndarray, position: np.ndarray, rotation: np.ndarray, iterations: int) -> np.ndarray:
        data, joints, error = self._kinematics, joints.copy(), np.empty(6)
        for _ in range(iterations):
            data.qpos[self._qpos] = joints
            mujoco.mj_kinematics(self.model, data)
            mujoco.mj_comPos(self.model, data)
            error[:3] = position - data.site_xpos[self._site]
            error[3:] = rotation_vector(rotation @ data.site_xmat[self._site].reshape(3, 3).T)
            if np.abs(error).max() < 1e-5:
                break
            mujoco.mj_jacSite(self.model, data, self._jacobian[:3], self._jacobian[3:], self._site)
            jacobian = self._jacobian[:, self._dof]
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), error)
            joints = np.clip(joints + np.clip(step, -0.5, 0.5), self._range[0], self._range[1])
        return joints
