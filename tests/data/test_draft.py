from dataclasses import replace

import numpy as np
import pytest

from tests.data.recording import ARM, FPS, episode, write
from visuomotor.codec import decode
from visuomotor.contract import Episode
from visuomotor.data.doctor import doctor
from visuomotor.data.draft import draft_embodiment
from visuomotor.data.lerobot import Dataset, DatasetWriter
from visuomotor.embodiment import Camera, Component, Embodiment


@pytest.fixture
def foreign(tmp_path) -> Dataset:
    """A data set with names in info.json, as ours has, but without its embodiment."""
    data = write(tmp_path / "d")
    (data.root / "embodiment.json").unlink()
    return Dataset(data.root)


def rename(dataset: Dataset, column: str, names: object) -> None:
    dataset.feature(column)["names"] = names


def asked(questions: list[str], start: str, *words: str) -> None:
    """One of the questions starts like this and says the words."""
    fitting = [q for q in questions if q.startswith(start) and all(w in q for w in words)]
    assert fitting, questions


def test_what_the_numbers_show_is_drafted(foreign):
    draft, _ = draft_embodiment(foreign)
    robot = decode(Embodiment, draft)
    assert (robot.name, robot.control_hz, robot.state_dim, robot.action_dim) == ("arm", FPS, 6, 6)
    assert [c.kind for c in robot.action] == ["position", "joint", "gripper"]
    assert [c.reference for c in robot.action] == ["step", "absolute", "absolute"]
    assert [c.unit for c in robot.action][:2] == ["m", "rad"]
    assert (robot.action[2].opened, robot.action[2].closed) == (-1.0, 1.0)
    assert robot.state[2].opened == pytest.approx(0.08, abs=0.01)
    assert robot.cameras == (Camera(name="front", role="scene", height=32, width=32),)


def test_a_draft_passes_the_doctor(foreign):
    foreign.embodiment = decode(Embodiment, draft_embodiment(foreign)[0])
    assert [f for f in doctor(foreign) if f.severity == "error"] == []


def test_everything_assumed_is_asked(foreign):
    _, questions = draft_embodiment(foreign)
    asked(questions, "cameras", "'front' is 'scene'")
    asked(questions, "observation.state.position", "in m?")
    asked(questions, "observation.state.joint", "assumes rad")
    asked(questions, "action.gripper", "opened = -1 and closed = 1", "5 of 5 episodes")
    asked(questions, "action.position", "'step' (3 of 3")
    asked(questions, "action.joint", "'absolute' (2 of 2")
    asked(questions, "action.position", "limits")


def test_unnamed_dimensions_are_not_guessed(foreign):
    rename(foreign, "action", None)
    draft, questions = draft_embodiment(foreign)
    assert [(c["name"], c["kind"], c["unit"], len(c["dims"])) for c in draft["action"]] == [
        ("unnamed", "other", "unknown", 6)
    ]
    asked(questions, "action: info.json does not name its 6 dimensions", "Dimension 5 is nearly always at one of two")


def test_degrees_and_lerobot_motor_names(foreign):
    motors = [
        "main_shoulder_pan",
        "main_shoulder_lift",
        "main_elbow_flex",
        "wrist_flex.pos",
        "wrist_roll.pos",
        "gripper",
    ]
    for column in ("action", "observation.state"):
        rename(foreign, column, {"motors": motors})
        foreign.columns[column][:, :5] *= 60
    draft, questions = draft_embodiment(foreign)
    joint, gripper = draft["action"]
    assert (joint["kind"], joint["unit"], joint["dims"]) == ("joint", "deg", list(motors[:5]))
    assert gripper["kind"] == "gripper"
    asked(questions, "action.joint", "assumes deg", "motor units")


def test_two_arms_and_rotations(foreign):
    names = ["left_joint_0", "left_gripper", "right_joint_0", "right_gripper", "roll", "pitch"]
    rename(foreign, "observation.state", names)
    draft, questions = draft_embodiment(foreign)
    found = [(c["name"], c["rotation"]) for c in draft["state"]]
    assert found[:4] == [("left_joint", None), ("left_gripper", None), ("right_joint", None), ("right_gripper", None)]
    assert found[4] == ("rotation", "euler_xyz")
    asked(questions, "observation.state.rotation", "Euler order")


def test_large_steps_have_no_known_unit(foreign):
    foreign.columns["action"][:, :3] *= 10
    draft, questions = draft_embodiment(foreign)
    assert (draft["action"][0]["reference"], draft["action"][0]["unit"]) == ("step", "unknown")
    asked(questions, "action.position", "what does 1 mean")


def test_gripper_that_rises_when_it_opens_is_drafted_so(foreign):
    foreign.columns["action"][:, 5] *= -1
    draft, _ = draft_embodiment(foreign)
    assert (draft["action"][2]["opened"], draft["action"][2]["closed"]) == (1.0, -1.0)


def test_gripper_that_never_moves_is_called_a_coin_toss(foreign):
    foreign.columns["action"][:, 5] = 0.5
    draft, questions = draft_embodiment(foreign)
    assert draft["action"][2]["opened"] != draft["action"][2]["closed"]
    asked(questions, "action.gripper", "coin toss")


def test_cameras_get_roles_of_their_own(tmp_path):
    cameras = tuple(Camera(name=n, role=n, height=32, width=32) for n in ("top", "wrist_left", "side"))

    def three(e: Episode) -> Episode:
        return replace(e, images={c.name: e.images["front"] for c in cameras})

    data = write(tmp_path / "d", three, replace(ARM, cameras=cameras))
    draft, questions = draft_embodiment(data)
    assert [c["role"] for c in draft["cameras"]] == ["scene", "wrist", "scene_2"]
    asked(questions, "cameras", "'side' is 'scene_2'")


def test_unknown_robot_is_asked(foreign):
    foreign.robot_type = None
    draft, questions = draft_embodiment(foreign)
    assert draft["name"] == "unknown_robot"
    asked(questions, "name", "Which robot")


def test_without_actions_there_is_nothing_to_describe(foreign):
    del foreign.columns["action"]
    with pytest.raises(ValueError, match="no column 'action' but"):
        draft_embodiment(foreign)


def test_state_of_other_quantities_leaves_the_reference_open(tmp_path):
    joints = Component(name="joints", dims=("j0", "j1"), kind="joint", unit="rad")
    robot = replace(ARM, state=(joints,), action=ARM.action[:1])
    with DatasetWriter(tmp_path / "d", robot, fps=FPS, storage="image") as writer:
        e = episode(0)
        writer.add(
            replace(e, state=np.ascontiguousarray(e.state[:, 3:5]), actions=np.ascontiguousarray(e.actions[:, :3]))
        )
    _, questions = draft_embodiment(Dataset(tmp_path / "d"))
    asked(questions, "action.position", "'absolute' (nothing in the numbers shows it")


def test_joints_of_a_known_robot_get_its_limits(foreign):
    names = [f"joint_{i}" for i in range(6)]
    for column in ("action", "observation.state"):
        rename(foreign, column, names)
        foreign.columns[column] = foreign.columns["observation.state"][:, :6].copy()
    foreign.robot_type = "ur5e"
    draft, questions = draft_embodiment(foreign)
    assert draft["action"][0]["high"][2] == 3.14159
    asked(questions, "action.joint: are low, high and velocity those of your ur5e", "robosuite 1.5.2")
    foreign.columns["action"][0, 2] = 3.5  # beyond the elbow's range: another robot, or other units
    draft, questions = draft_embodiment(foreign)
    assert draft["action"][0]["high"] is None
    asked(questions, "action.joint: which limits", "leaves them open")
