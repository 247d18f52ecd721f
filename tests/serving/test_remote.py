"""A policy behind a server answers as the one that is served."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from visuomotor_client import PolicyError

from tests.serving.fakes import ROBOT, FakePolicy, background
from visuomotor.contract import Observation
from visuomotor.embodiment import Component
from visuomotor.serving.observations import ObservationKeys
from visuomotor.serving.remote import RemotePolicy, open_policy
from visuomotor.session import Session


def observation(first: float, pixel: int = 10) -> Observation:
    images = {camera.name: np.full((8, 8, 3), pixel, np.uint8) for camera in ROBOT.cameras}
    return Observation(images=images, state=np.array([first, 0], np.float32), instruction="go")


def test_chunks_text_and_sessions_are_those_of_the_server() -> None:
    with background(seed=5, vla_eval_port=None) as server:
        policy = RemotePolicy(server.addresses["openpi"])
        assert policy.embodiment == ROBOT
        session, here = Session(), FakePolicy()
        there = [policy.infer([observation(float(i))], sessions=[session])[0] for i in range(3)]
        mine = Session(seed=5)
        for i, chunk in enumerate(there):
            wanted = here.infer([observation(float(i))], sessions=[mine], seeds=[mine.call_seed()])[0]
            np.testing.assert_array_equal(chunk.actions, wanted.actions)
            assert chunk.text == wanted.text == {"subtask": f"call {i}"}
            assert chunk.embodiment == ROBOT
        assert session.calls == 3
        session.reset()
        assert policy.infer([observation(0.0)], sessions=[session])[0].text == {"subtask": "call 0"}
        with pytest.raises(PolicyError, match="the camera blinds"):
            policy.infer([observation(0.0, pixel=255)], sessions=[session])
        assert policy.infer([observation(0.0)])[0].text == {"subtask": "call 0"}
        policy.close()


def test_a_name_is_a_folder_or_an_address(tmp_path: Path) -> None:
    with background(vla_eval_port=None) as server:
        assert isinstance(open_policy(server.addresses["openpi"]), RemotePolicy)
    with pytest.raises(FileNotFoundError, match="not a whole checkpoint"):
        open_policy(str(tmp_path))


def test_a_state_in_parts() -> None:
    parts = tuple(Component(name=name, dims=(name,), kind="joint", unit="rad") for name in "ab")
    robot = replace(ROBOT, state=parts)
    cameras = {camera.name: f"images/{camera.name}" for camera in robot.cameras}
    keys = ObservationKeys(embodiment=robot, cameras=cameras, state=("first", "second"), instruction="prompt")
    with background(FakePolicy(embodiment=robot), keys={"openpi": keys}, vla_eval_port=None) as server:
        chunk = RemotePolicy(server.addresses["openpi"]).infer([observation(7.0)])[0]
    np.testing.assert_allclose(chunk.actions[0], [7, 0], atol=0.5)
