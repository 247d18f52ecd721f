"""What the page is told of a chunk."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from visuomotor.apps.live.frames import ChunkShown, Latency, end_effector_path, images_shown
from visuomotor.contract import ActionChunk
from visuomotor.models.dm0.robots import ROBOTS
from visuomotor.simulation.tabletop import EMBODIMENT

STATE = np.array([0.1, 0.0, 0.2, 0, 0, 0, 1], np.float32)


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [("step", [0.1, 0.12, 0.14]), ("chunk_start", [0.1, 0.12, 0.12]), ("absolute", [0.1, 0.02, 0.02])],
)
def test_where_a_chunk_leads_in_each_convention(reference: str, wanted: list[float]) -> None:
    first = replace(EMBODIMENT.action[0], reference=reference)
    robot = replace(EMBODIMENT, action=(first, *EMBODIMENT.action[1:]))
    actions = np.zeros((2, 7), np.float32)
    actions[:, 0] = 0.02
    path = end_effector_path(robot, actions, STATE)
    assert path is not None
    np.testing.assert_allclose(path[:, 0], wanted, atol=1e-6)
    np.testing.assert_allclose(path[0], STATE[:3])
    assert end_effector_path(ROBOTS["aloha"], np.zeros((2, 14)), np.zeros(14)) is None


def test_a_chunk_becomes_json() -> None:
    actions = np.linspace(-0.01, 0.01, 14, dtype=np.float32).reshape(2, 7)
    marks = {"camera": "scene", "boxes": {"red cup": [1, 2, 3, 4]}, "trace": []}
    chunk = ActionChunk(actions=actions, embodiment=EMBODIMENT, text={"subtask": "reach"}, extras={"marks": marks})
    shown = json.loads(json.dumps(ChunkShown(chunk=chunk).to_json({"scene": np.array([[1.26, 2], [np.nan, 1]])})))
    assert shown["text"] == {"subtask": "reach"}
    assert shown["marks"] == marks
    assert shown["path"] == {"scene": [[1.3, 2.0], None]}
    assert list(shown["curves"]) == ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"]
    assert shown["curves"]["dx"]["values"] == pytest.approx(actions[:, 0].tolist(), abs=1e-5)
    assert (shown["curves"]["gripper"]["low"], shown["curves"]["gripper"]["high"]) == (-1.0, 1.0)
    two = ActionChunk(actions=np.zeros((2, 14), np.float32), embodiment=ROBOTS["aloha"])
    assert len(ChunkShown(chunk=two).to_json({})["curves"]) == 14, "both arms have a joint_1"


def test_pictures_and_latency() -> None:
    (shown,) = images_shown({"top": np.full((8, 10, 3), 200, np.uint8)}).values()
    picture = Image.open(io.BytesIO(base64.b64decode(shown.partition("base64,")[2])))
    assert (picture.format, picture.size) == ("JPEG", (10, 8))
    latency = Latency()
    assert latency.to_json() == {}
    for seconds in (0.1, 0.3, 0.2):
        latency.add(seconds)
    assert latency.to_json() == {"last": pytest.approx(200), "median": pytest.approx(200)}
