"""Keys: the layouts of the field, paths, and what is refused."""

from typing import Any

import numpy as np
import pytest
from visuomotor_client.images import encode_image

from visuomotor.embodiment import Camera, Component, Embodiment
from visuomotor.models.dm0.robots import ROBOTS
from visuomotor.serving.observations import keys_for


def robot(name: str, states: int, *cameras: str) -> Embodiment:
    joints = Component(name="joints", dims=tuple(f"j{i}" for i in range(states)), kind="joint", unit="rad")
    views = tuple(Camera(name=camera, role=camera, height=4, width=6) for camera in cameras)
    return Embodiment(name=name, control_hz=10, cameras=views, state=(joints,) if states else (), action=(joints,))


def image(value: int, *, chw: bool = False) -> np.ndarray:
    return np.full((3, 4, 6) if chw else (4, 6, 3), value, np.uint8)


def test_aloha_sends_channels_first_in_nested_maps() -> None:
    keys = keys_for(ROBOTS["aloha"], "openpi")
    views = {"cam_high": 1, "cam_low": 2, "cam_left_wrist": 3, "cam_right_wrist": 4}
    message = {
        "state": np.arange(14.0), "prompt": "fold",
        "images": {name: image(value, chw=True) for name, value in views.items()},
    }  # fmt: skip
    found = keys.read(message)
    assert {name: int(view[0, 0, 0]) for name, view in found.images.items()} == {
        "high": 1, "left_hand": 3, "right_hand": 4,
    }  # fmt: skip
    assert {view.shape for view in found.images.values()} == {(4, 6, 3)}
    np.testing.assert_array_equal(found.state, np.arange(14, dtype=np.float32))
    assert found.instruction == "fold"


def test_droid_s_state_lies_under_two_keys() -> None:
    keys = keys_for(robot("droid_franka", 8, "exterior_image_1_left", "wrist"), "openpi")
    message = {
        "observation/exterior_image_1_left": image(1), "observation/wrist_image_left": image(2), "prompt": "go",
        "observation/joint_position": np.arange(7.0), "observation/gripper_position": np.array([0.5]),
    }  # fmt: skip
    found = keys.read(message)
    np.testing.assert_array_equal(found.state, [0, 1, 2, 3, 4, 5, 6, 0.5])
    assert [int(v[0, 0, 0]) for v in found.images.values()] == [1, 2]
    assert keys.read({**message, "observation/gripper_position": np.float32(0.25)}).state[7] == 0.25


def test_libero_by_flag_and_in_vla_eval_s_words() -> None:
    arm = robot("franka", 8, "scene", "wrist")
    keys = keys_for(arm, "openpi", layout="libero")
    message = {
        "observation/image": image(1), "observation/wrist_image": image(2), "observation/state": np.zeros(8),
        "prompt": "go",
    }  # fmt: skip
    assert [int(v[0, 0, 0]) for v in keys.read(message).images.values()] == [1, 2]
    keys = keys_for(arm, "vla-eval", layout="vla-eval")
    views = {"agentview": image(3), "wrist": image(4)}
    found = keys.read({"images": views, "state": np.zeros(8), "task_description": "go"})
    assert [int(v[0, 0, 0]) for v in found.images.values()] == [3, 4]


def test_any_robot_by_its_own_names_and_by_given_keys() -> None:
    arm = robot("arm", 1, "left eye", "right eye")
    keys = keys_for(arm, "openpi", cameras={"right eye": "obs/right"}, state=("obs/joints",), instruction="task")
    message = {"images": {"left eye": image(1)}, "obs": {"right": image(2), "joints": [3]}, "task": "go"}
    found = keys.read(message)
    assert [int(v[0, 0, 0]) for v in found.images.values()] == [1, 2]
    assert found.state.tolist() == [3.0]
    assert keys.read({**message, "obs/joints": np.int64(5)}).state.tolist() == [5.0]  # a key as it is comes first


def test_floats_are_taken_as_parts_of_255_and_missing_words_filled_in() -> None:
    keys = keys_for(robot("arm", 0, "eye"), "openpi")
    found = keys.read({"images": {"eye": np.full((4, 6, 3), 0.5)}}, instruction="go")
    assert found.images["eye"][0, 0, 0] == 127
    assert found.instruction == "go"
    assert found.state.shape == (0,)
    assert keys.read({"images": {"eye": image(0)}, "prompt": np.array("stop")}).instruction == "stop"


def test_compressed_images_are_decoded_and_told_apart() -> None:
    keys = keys_for(robot("arm", 0, "eye"), "openpi")
    plain = {"images": {"eye": image(7)}, "prompt": "go"}
    packed = {**plain, "images": {"eye": encode_image(image(7), "png")}}
    assert [keys.compressed(message) for message in (plain, packed, None)] == [False, True, False]
    np.testing.assert_array_equal(keys.read(packed).images["eye"], image(7))
    packed["images"]["eye"]["data"] = b"no picture"
    with pytest.raises(ValueError, match="cannot be decoded as png"):
        keys.read(packed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": {}}, "lacks 'images/eye'"),
        ({"images": 3}, "lacks 'images/eye'"),
        ({"images": {"eye": "png"}}, "must be an array"),
        ({"images": {"eye": np.zeros((4, 6), np.uint8)}}, "must be an array"),
        ({"images": {"eye": np.zeros((4, 6, 4), np.uint8)}}, "three channels"),
        ({"images": {"eye": np.zeros((0, 6, 3), np.uint8)}}, "must be an array"),
        ({"images": {"eye": np.zeros((4, 6, 3), np.int32)}}, "int32; send uint8"),
        ({"images": {"eye": np.full((4, 6, 3), 200.0)}}, "must lie in 0-1"),
        ({"state": np.zeros(3)}, "has 3 numbers but embodiment 'arm' has 2"),
        ({"state": np.array([0, np.inf])}, "not finite"),
        ({"state": "north"}, "must be numbers"),
        ({"state": {"a": 1}}, "must be numbers"),
        ({"prompt": b"go"}, "must be a text"),
        ({"prompt": None}, "nothing came"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(change: dict[str, Any], said: str) -> None:
    keys = keys_for(robot("arm", 2, "eye"), "openpi")
    with pytest.raises(ValueError, match=said):
        keys.read({"images": {"eye": image(0)}, "state": np.zeros(2), "prompt": "go"} | change)


def test_a_layout_without_a_place_for_a_camera_is_refused() -> None:
    arm = robot("arm", 2, "eye")
    with pytest.raises(ValueError, match="no place for camera 'eye'"):
        keys_for(arm, "openpi", layout="droid")
    assert keys_for(arm, "openpi", layout="droid", cameras={"eye": "observation/wrist_image_left"}).cameras
    with pytest.raises(ValueError, match=r"cameras \['ear', 'eye'\]"):
        keys_for(arm, "openpi", cameras={"ear": "x"})
    with pytest.raises(ValueError, match="Unknown layout"):
        keys_for(arm, "openpi", layout="mars")
