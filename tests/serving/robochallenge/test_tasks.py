"""Table30's settings, and what becomes of a chunk."""

from collections import Counter

import numpy as np
import pytest

from visuomotor.serving.robochallenge.tasks import TASKS, Execution, Gripper, table30


def test_the_thirty_tasks_and_their_robots() -> None:
    assert Counter(task.robot for task in TASKS.values()) == {"arx5": 11, "aloha": 11, "ur5": 6, "franka": 2}
    assert all(task.prompt and task.specialist.horizon and task.generalist.horizon for task in TASKS.values())
    cable = table30("plug_in_network_cable")
    assert (cable.specialist.horizon, cable.specialist.duration, cable.generalist.duration) == (15, 0.05, 0.1)
    assert cable.prompt == "Insert the RJ45 connector of the Ethernet cable into the host."
    assert table30("set_the_plates").generalist.gripper == Gripper(threshold=50, closed=3, opened=228)
    assert {name for name, task in TASKS.items() if task.specialist.stretch == 2} == {
        "arrange_flowers", "wipe_the_table", "open_the_drawer",
    }  # fmt: skip
    with pytest.raises(ValueError, match="Did you mean 'open_the_drawer'"):
        table30("open_drawer")


def test_grippers_keep_their_number_or_open() -> None:
    values = np.array([0.005, 0.06])
    assert Gripper(threshold=0.01, closed=0.0)(values).tolist() == [0.0, 0.06]
    assert Gripper(threshold=0.04, closed=0.004, opened=0.084)(values).tolist() == [0.004, 0.084]


def test_a_chunk_is_cut_and_only_grippers_change() -> None:
    chunk = np.full((5, 14), 0.005)
    execution = Execution(horizon=2, gripper=Gripper(threshold=0.01, closed=0.0))
    cut = execution.cut(chunk, (6, 13))
    assert cut.shape == (2, 14)
    assert np.flatnonzero((cut != chunk[:2]).any(0)).tolist() == [6, 13]
    assert len(Execution().cut(chunk, (6, 13))) == 5


def test_the_pencil_case_is_clipped_to_alohas_joints() -> None:
    execution = table30("put_pen_into_pencil_case").specialist
    far = execution.clip(np.full((1, 14), 10.0))[0]
    np.testing.assert_allclose(np.rad2deg(far[:6]), [150, 180, 0, 99, 70, 180])
    np.testing.assert_allclose(
        np.rad2deg(execution.clip(-np.full((1, 14), 10.0))[0, 7:13]), [-150, 0, -170, -100, -70, -180]
    )
    assert far[6] == far[13] == 0.1


@pytest.mark.parametrize("given", [{"horizon": 0}, {"stretch": 0}, {"duration": 0.0}, {"duration": float("nan")}])
def test_contradictions_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match=r"at least 1|0.01 to 10 s"):
        Execution(**given)
