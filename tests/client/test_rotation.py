"""Rotations against scipy's, in every format."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp
from visuomotor_client.rotation import angle_between, equivalent, interpolate, is_linear, to_quaternion

FORMATS = (
    "axis_angle", "euler_xyz", "euler_zyx", "euler_xyz_extrinsic", "euler_zyx_intrinsic", "quat_xyzw", "quat_wxyz",
    "rot6d", "matrix",
)  # fmt: skip


def written(rotation: Rotation, form: str) -> np.ndarray:
    if form == "axis_angle":
        return rotation.as_rotvec()
    if form.startswith("euler"):
        order = form.split("_")[1]
        return rotation.as_euler(order.upper() if form.endswith("intrinsic") else order)
    if form.startswith("quat"):
        return rotation.as_quat() if form == "quat_xyzw" else np.roll(rotation.as_quat(), 1)
    matrix = rotation.as_matrix()
    return matrix.T[:2].ravel() if form == "rot6d" else matrix.ravel()


@pytest.mark.parametrize("form", FORMATS)
def test_quaternions_and_angles_are_scipys(form: str) -> None:
    rotations = Rotation.random(40, random_state=0)
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3))
    for a, b in zip([*rotations, *half_turns], [*rotations[::-1], *half_turns], strict=True):
        found = to_quaternion(written(a, form), form)
        assert found is not None
        assert min(np.abs(found - a.as_quat()).max(), np.abs(found + a.as_quat()).max()) < 1e-7
        other = to_quaternion(written(b, form), form)
        assert other is not None
        assert angle_between(found, other) == pytest.approx((a.inv() * b).magnitude(), abs=1e-6)


def test_degrees_and_small_turns() -> None:
    found = to_quaternion(np.array([90.0, 0, 0]), "euler_xyz", np.pi / 180)
    np.testing.assert_allclose(found, [0.5**0.5, 0, 0, 0.5**0.5], atol=1e-9)
    np.testing.assert_allclose(to_quaternion(np.zeros(3), "axis_angle"), [0, 0, 0, 1])
    np.testing.assert_allclose(to_quaternion(np.array([1e-10, 0, 0]), "axis_angle"), [5e-11, 0, 0, 1])


@pytest.mark.parametrize("form", [f for f in FORMATS if not is_linear(f)])
def test_the_way_between_is_slerp(form: str) -> None:
    a, b = Rotation.random(2, random_state=3)
    for share in (0.0, 0.3, 1.0):
        expected = Slerp([0, 1], Rotation.concatenate([a, b]))(share)
        found = to_quaternion(interpolate(a.as_quat(), -b.as_quat(), share, form), form)
        assert found is not None
        assert angle_between(found, expected.as_quat()) < 1e-6


@pytest.mark.parametrize("form", ["axis_angle", "euler_xyz"])
def test_an_equivalent_is_the_same_rotation_in_nearer_numbers(form: str) -> None:
    near, far = np.array([0.0, 0.0, 3.1]), np.array([0.0, 0.0, -3.1])
    found = equivalent(far, near, form)
    assert np.abs(found - near).max() < 0.1
    a, b = to_quaternion(found, form), to_quaternion(far, form)
    assert a is not None
    assert b is not None
    assert angle_between(a, b) < 1e-6


def test_numbers_that_are_no_rotation() -> None:
    assert to_quaternion(np.zeros(4), "quat_xyzw") is None
    assert to_quaternion(np.array([1.0, 0, 0, 2, 0, 0]), "rot6d") is None
    for size, form in ((3, "rodrigues"), (3, "euler_abc"), (4, "euler_xyz"), (3, "quat_xyzw"), (3, "euler_xyz_body")):
        with pytest.raises(ValueError, match=f"{size} numbers in the format '{form}'"):
            to_quaternion(np.zeros(size), form)
