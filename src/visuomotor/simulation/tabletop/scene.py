"""The scene as MJCF: table, two bowls, a cabinet with a drawer and a button on top, cameras, the arm, object slots.

Lengths in m in the base frame (see arm.py). What a camera sees is drawn by few primitives and two small meshes;
what fingers and objects touch is boxes and cylinders, some of them invisible.
"""

from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop.arm import ARM_ACTUATORS_XML, ARM_DEFAULTS_XML, ARM_XML
from visuomotor.simulation.tabletop.objects import slot_xml

__all__ = [
    "BOWLS", "BOWL_HEIGHT", "BOWL_RADIUS", "BUTTON_TRAVEL", "CABINET", "DRAWER_TRAVEL", "FURNITURE",
    "HANDLE", "TIMESTEP", "compile_scene",
]  # fmt: skip

TIMESTEP = 0.004
BOWLS = {"left bowl": (-0.185, 0.12), "right bowl": (0.185, 0.12)}  # default centres
BOWL_RADIUS = 0.07  # outer
BOWL_HEIGHT = 0.03
CABINET = (0.0, 0.20)  # default centre
DRAWER_TRAVEL = 0.10
HANDLE = np.array([0.0, -0.105, 0.045])  # of the closed drawer's handle, from the cabinet's centre on the table
BUTTON_TRAVEL = 0.012
ROLLING_DAMPING = 2e-4  # N m s; a cup that fell over stops rolling within a hand's breadth
FURNITURE = (*BOWLS, "drawer", "button")
_BOWL_SIDES = 10


def compile_scene(slots: int) -> Any:
    """The compiled mujoco.MjModel with `slots` object slots named object0, object1, ..."""
    model = mujoco.MjModel.from_xml_string(_scene_xml(slots))
    for slot in range(slots):
        first = model.joint(f"object{slot}").dofadr[0]
        model.dof_damping[first + 3 : first + 6] = ROLLING_DAMPING
    return model


def _scene_xml(slots: int) -> str:
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5" iterations="20">
    <flag midphase="disable"/>
  </option>
  <visual>
    <quality numslices="16" numstacks="4" numquads="1"/>
    <headlight ambient=".40 .40 .40" diffuse=".20 .20 .20" specular="0 0 0"/>
    <map znear=".01" zfar="4"/>
  </visual>
  <statistic extent="1" center="0 0 .1"/>
  <asset>
    {_bowl_mesh_xml()}
    <material name="matt" specular="0" shininess="0"/>
  </asset>
  <default>
    <geom friction=".5 .005 .0001" condim="4" solref=".008 1" material="matt"/>
    <default class="object"><geom friction=".5 .005 .0001" solimp=".95 .99 .001"/></default>
    <default class="picture"><geom contype="0" conaffinity="0" density="0"/></default>
    <default class="drawer"><geom rgba=".70 .55 .38 1"/></default>
    <default class="solid"><geom group="3" rgba="0 0 0 0"/></default>
    {ARM_DEFAULTS_XML}
  </default>
  <worldbody>
    <light name="lamp" directional="true" pos="0 -.3 1.5" dir=".25 .35 -1" diffuse=".48 .48 .48" specular="0 0 0"/>
    <camera name="scene" pos="0 -.52 .58" xyaxes="1 0 0 0 .735 .678" fovy="38"/>
    <geom name="wall" class="picture" type="box" size="3 .01 2" pos="0 1.2 0" rgba=".55 .62 .68 1"/>
    <geom name="floor" class="solid" type="plane" size="2 2 1"/>
    <geom name="table" class="picture" type="box" size=".8 .54 .02" pos="0 .08 -.02" rgba=".80 .76 .68 1"/>
    {"".join(_bowl_xml(name) for name in BOWLS)}
    {_CABINET_XML}
    {ARM_XML}
    {"".join(slot_xml(k) for k in range(slots))}
  </worldbody>
  <contact>
    <exclude body1="finger_left" body2="finger_right"/>
    <exclude body1="cabinet" body2="drawer"/>
    <exclude body1="cabinet" body2="button"/>
  </contact>
  <equality><joint joint1="finger_left" joint2="finger_right" solref=".008 1"/></equality>
  <actuator>{ARM_ACTUATORS_XML}</actuator>
</mujoco>"""


def _bowl_mesh_xml() -> str:
    """A low-poly bowl: rings (outer foot, outer rim, inner rim, inner floor) and a floor disc."""
    r, h = BOWL_RADIUS, BOWL_HEIGHT
    rings = [(0.82 * r, 0.0), (r, h), (0.92 * r, h), (0.74 * r, 0.006)]
    angle = 2 * np.pi * (np.arange(_BOWL_SIDES) + 0.5) / _BOWL_SIDES
    points = [(q * np.cos(a), q * np.sin(a), z) for q, z in rings for a in angle] + [(0.0, 0.0, 0.006)]
    faces, n = [], _BOWL_SIDES
    for ring in range(3):
        for k in range(n):
            a, b = ring * n + k, ring * n + (k + 1) % n
            faces += [(a, b, b + n), (a, b + n, a + n)]
    faces += [(3 * n + k, 3 * n + (k + 1) % n, 4 * n) for k in range(n)]
    vertex = " ".join(f"{v:.5f}" for p in points for v in p)
    face = " ".join(str(i) for f in faces for i in f)
    return f'<mesh name="bowl" inertia="shell" vertex="{vertex}" face="{face}"/>'


def _bowl_xml(name: str) -> str:
    x, y = BOWLS[name]
    wall = []
    for k in range(_BOWL_SIDES):
        angle = 2 * np.pi * k / _BOWL_SIDES
        px, py = 0.055 * np.cos(angle), 0.055 * np.sin(angle)
        wall.append(
            f'<geom class="solid" type="box" size=".003 .021 {BOWL_HEIGHT / 2 + 0.002}" '
            f'pos="{px:.5f} {py:.5f} {BOWL_HEIGHT / 2 - 0.002}" euler="0 0 {angle:.5f}"/>'
        )
    return f"""
    <body name="{name}" pos="{x} {y} 0">
      <geom name="{name}" class="picture" type="mesh" mesh="bowl" rgba=".45 .36 .30 1"/>
      <geom class="solid" type="cylinder" size=".054 .003" pos="0 0 .003"/>
      {"".join(wall)}
    </body>"""


_CABINET_XML = f"""
    <body name="cabinet" pos="{CABINET[0]} {CABINET[1]} 0">
      <geom name="cabinet_left" type="box" size=".005 .06 .05" pos="-.075 0 .05" rgba=".58 .42 .27 1"/>
      <geom name="cabinet_right" type="box" size=".005 .06 .05" pos=".075 0 .05" rgba=".58 .42 .27 1"/>
      <geom name="cabinet_top" type="box" size=".08 .06 .004" pos="0 0 .096" rgba=".64 .47 .31 1"/>
      <geom name="cabinet_back" type="box" size=".07 .004 .046" pos="0 .056 .046" rgba=".40 .29 .18 1"/>
      <body name="drawer" childclass="drawer">
        <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL}" damping="4" frictionloss=".6"/>
        <geom name="drawer_front" type="box" size=".068 .004 .040" pos="0 -.060 .046" mass=".2"/>
        <geom name="drawer_floor" type="box" size=".066 .054 .003" pos="0 -.003 .008" mass=".1" rgba=".34 .25 .16 1"/>
        <geom name="drawer_left" type="box" size=".003 .054 .010" pos="-.063 -.003 .021" mass=".05"/>
        <geom name="drawer_right" type="box" size=".003 .054 .010" pos=".063 -.003 .021" mass=".05"/>
        <geom name="drawer_back" type="box" size=".060 .003 .010" pos="0 .048 .021" mass=".05"/>
        <geom name="stem" type="box" size=".005 .012 .005" pos="0 -.076 .045" mass=".01" rgba=".15 .15 .16 1"/>
        <geom name="handle" type="box" size=".017 .011 .014" pos="{HANDLE[0]} {HANDLE[1]} {HANDLE[2]}" mass=".02"
          rgba=".15 .15 .16 1"/>
      </body>
      <geom name="button_base" class="picture" type="cylinder" size=".028 .003" pos="0 0 .103" rgba=".2 .2 .22 1"/>
      <body name="button" pos="0 0 .112">
        <joint name="button" type="slide" axis="0 0 -1" range="0 {BUTTON_TRAVEL}" stiffness="150" damping="4"
          springref="-.005" armature=".02"/>
        <geom name="button" type="cylinder" size=".020 .008" mass=".03" rgba=".95 .45 .70 1"/>
      </body>
    </body>"""
