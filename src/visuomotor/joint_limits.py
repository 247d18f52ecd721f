"""Joint ranges and speeds of robots that many people have, from model files of published packages.

limits = JOINT_LIMITS["panda"]
component = limits.applied(component)       # low, high and velocity where the component states none
"""

from dataclasses import dataclass, replace

from visuomotor.embodiment import Component

__all__ = ["JOINT_LIMITS", "JointLimits"]

Values = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class JointLimits:
    """Limits of one arm, in the order of its joints.

    low, high   rad
    velocity    rad/s; None where the source states none
    source      package, version and file that the numbers stand in
    """

    low: Values
    high: Values
    velocity: Values | None = None
    source: str

    def applied(self, component: Component) -> Component:
        """Return the component with these limits where it has none of its own.

        Raises:
            ValueError: it is no joint component in radians with as many joints.
        """
        if component.kind != "joint" or component.unit != "rad" or len(component.dims) != len(self.low):
            raise ValueError(
                f"Limits of {len(self.low)} joints in rad do not fit component {component.name!r}: "
                f"{len(component.dims)} dimensions of kind {component.kind!r} in {component.unit!r}."
            )
        return replace(
            component,
            low=self.low if component.low is None else component.low,
            high=self.high if component.high is None else component.high,
            velocity=self.velocity if component.velocity is None else component.velocity,
        )


PI = 3.14159
JOINT_LIMITS: dict[str, JointLimits] = {
    "panda": JointLimits(
        low=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
        high=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
        velocity=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
        source="mani_skill 3.0.1, assets/robots/panda/panda_v2.urdf",
    ),
    "sawyer": JointLimits(
        low=(-3.0503, -3.8183, -3.0514, -3.0514, -2.9842, -2.9842, -4.7104),
        high=(3.0503, 2.2824, 3.0514, 3.0514, 2.9842, 2.9842, 4.7104),
        velocity=(1.74, 1.328, 1.957, 1.957, 3.485, 3.485, 4.545),
        source="robosuite 1.5.2, models/assets/bullet_data/sawyer_description/urdf/sawyer_arm.urdf",
    ),
    "xarm7": JointLimits(
        low=(-6.28318530718, -2.059, -6.28318530718, -0.19198, -6.28318530718, -1.69297, -6.28318530718),
        high=(6.28318530718, 2.0944, 6.28318530718, 3.927, 6.28318530718, 3.14159265359, 6.28318530718),
        velocity=(3.14,) * 7,
        source="mani_skill 3.0.1, assets/robots/xarm7/xarm7.urdf",
    ),
    "ur5e": JointLimits(
        low=(-6.28319, -6.28319, -PI, -6.28319, -6.28319, -6.28319),
        high=(6.28319, 6.28319, PI, 6.28319, 6.28319, 6.28319),
        source="robosuite 1.5.2, models/assets/robots/ur5e/robot.xml",
    ),
    "vx300s": JointLimits(
        low=(-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158),
        high=(3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158),
        source="gym-aloha 0.1.5, assets/vx300s_left.xml",
    ),
    "piper": JointLimits(
        low=(-2.6179, 0.0, -2.967, -1.745, -1.22, -2.09439),
        high=(2.6179, 3.14, 0.0, 1.745, 1.22, 2.09439),
        velocity=(3.0,) * 6,
        source="piper_sdk 0.6.2, piper_param/piper_param_manager.py; speeds: MotorMaxSpdSet",
    ),
}
