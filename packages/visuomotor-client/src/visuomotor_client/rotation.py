"""Rotations in the formats that embodiments name, through unit quaternions (x, y, z, w). numpy only.

Formats: axis_angle, quat_xyzw, quat_wxyz, rot6d (the matrix's first two columns, one after the other), matrix (row by
row), and euler_xyz, euler_zyx, ... about fixed axes, or about the moved ones with the ending _intrinsic.
"""

import math
from typing import Optional

import numpy as np

__all__ = ["angle_between", "equivalent", "interpolate", "is_known", "is_linear", "to_quaternion"]

TINY = 1e-9


SIZES = {"axis_angle": 3, "quat_xyzw": 4, "quat_wxyz": 4, "rot6d": 6, "matrix": 9}


def is_known(rotation: str, size: int) -> bool:
    """Whether so many numbers of this format can be read as a rotation."""
    name, _, order = rotation.partition("_")
    if name != "euler":
        return SIZES.get(rotation) == size
    order, _, frame = order.partition("_")
    return len(order) == size == 3 and set(order) <= set("xyz") and frame in ("", "extrinsic", "intrinsic")


def is_linear(rotation: str) -> bool:
    """Whether numbers between two rotations of this format are rotations between them (angles and axis-angle)."""
    return rotation == "axis_angle" or rotation.startswith("euler_")


def to_quaternion(values: np.ndarray, rotation: str, scale: float = 1.0) -> Optional[np.ndarray]:
    """The unit quaternion of `values`, None where they are no rotation (all zeros, say). `scale`: rad per unit."""
    values = np.asarray(values, np.float64)
    if not is_known(rotation, len(values)):
        raise ValueError(
            f"{len(values)} numbers in the format {rotation!r} are no rotation that is known here; expected "
            f"axis_angle, euler_xyz (any order), quat_xyzw, quat_wxyz, rot6d or matrix."
        )
    if rotation == "axis_angle":
        angle = float(np.linalg.norm(values)) * scale
        share = np.sinc(angle / 2 / math.pi) / 2 * scale  # sin(angle / 2) / |values|
        return np.append(values * share, math.cos(angle / 2))
    if rotation.startswith("euler_"):
        return _euler(values * scale, rotation)
    if rotation in ("quat_xyzw", "quat_wxyz"):
        norm = np.linalg.norm(values)
        quaternion = values if rotation == "quat_xyzw" else np.roll(values, -1)
        return None if norm < TINY else quaternion / norm
    if rotation == "rot6d":
        return _from_columns(values[:3], values[3:6])
    columns = values.reshape(3, 3).T
    return _from_columns(columns[0], columns[1])


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """The geodesic angle (rad, 0 to pi) between two unit quaternions."""
    x, y, z, w = _product(_inverse(a), b)
    return 2 * math.atan2(math.sqrt(x * x + y * y + z * z), abs(w))


def interpolate(a: np.ndarray, b: np.ndarray, share: float, rotation: str) -> np.ndarray:
    """The rotation at `share` of the shortest way from quaternion a to b, in a format that is not linear."""
    x, y, z, w = _product(_inverse(a), b)
    if w < 0:
        x, y, z, w = -x, -y, -z, -w
    half = math.atan2(math.sqrt(x * x + y * y + z * z), w)
    if half < TINY:
        return _format(a, rotation)
    axis = np.array([x, y, z]) / math.sin(half)
    turn = np.append(axis * math.sin(half * share), math.cos(half * share))
    return _format(_product(a, turn), rotation)


def equivalent(values: np.ndarray, near: np.ndarray, rotation: str, scale: float = 1.0) -> np.ndarray:
    """The same rotation in numbers as near as can be to `near`: angles and axis-angle repeat after a full turn."""
    period = 2 * math.pi / scale
    if rotation != "axis_angle":
        return values + period * np.round((near - values) / period)
    length = float(np.linalg.norm(values))
    if length < TINY:
        return values
    others = [values, values * (1 - period / length)]
    return min(others, key=lambda v: float(np.linalg.norm(v - near)))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """First b, then a."""
    vector = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.append(vector, a[3] * b[3] - a[:3] @ b[:3])


def _inverse(a: np.ndarray) -> np.ndarray:
    return a * np.array([-1.0, -1.0, -1.0, 1.0])


def _euler(angles: np.ndarray, rotation: str) -> np.ndarray:
    order = rotation.split("_")[1]
    total = np.array([0.0, 0.0, 0.0, 1.0])
    for letter, angle in zip(order, angles):
        turn = np.append(math.sin(angle / 2) * np.eye(3)["xyz".index(letter)], math.cos(angle / 2))
        total = _product(total, turn) if rotation.endswith("_intrinsic") else _product(turn, total)
    return total


def _from_columns(first: np.ndarray, second: np.ndarray) -> Optional[np.ndarray]:
    """Gram-Schmidt (Zhou et al. 2019)."""
    length = np.linalg.norm(first)
    if length < TINY:
        return None
    x = first / length
    rest = second - (x @ second) * x
    length = np.linalg.norm(rest)
    if length < TINY:
        return None
    y = rest / length
    return _from_matrix(np.stack([x, y, np.cross(x, y)], axis=1))


def _from_matrix(m: np.ndarray) -> np.ndarray:
    """The quaternion through its largest entry, which is divided by."""
    squares = np.array([m[0, 0], m[1, 1], m[2, 2], m.trace()])
    i = int(squares.argmax())
    if i == 3:
        q = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + squares[3]])
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q = np.empty(4)
        q[i] = 1 - squares[3] + 2 * m[i, i]
        q[j], q[k], q[3] = m[j, i] + m[i, j], m[k, i] + m[i, k], m[k, j] - m[j, k]
    return q / np.linalg.norm(q)


def _format(q: np.ndarray, rotation: str) -> np.ndarray:
    if rotation == "quat_xyzw":
        return q
    if rotation == "quat_wxyz":
        return np.roll(q, 1)
    columns = [_product(_product(q, np.append(axis, 0.0)), _inverse(q))[:3] for axis in np.eye(3)]
    return np.concatenate(columns[:2]) if rotation == "rot6d" else np.stack(columns, axis=1).ravel()
