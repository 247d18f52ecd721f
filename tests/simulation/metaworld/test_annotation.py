import numpy as np
import pytest

from tests.simulation.geoms import segmentation
from visuomotor.contract import Scenario
from visuomotor.simulation.metaworld.annotation import geoms_of
from visuomotor.simulation.metaworld.tasks import TASKS
from visuomotor.simulation.rendering import CameraRenderer


@pytest.mark.parametrize("task", ["drawer-open", "pick-place", "faucet-open", "shelf-place"])
def test_boxes_enclose_what_segmentation_shows(env, task):
    """The renderer's own segmentation is the oracle: each visible pixel lies in the box, which is hardly larger."""
    env.reset(options={"scenario": Scenario(environment="metaworld", task=task, seed=3)})
    boxes, size, compared = env.annotate().boxes, 128, 0
    renderer = CameraRenderer(env.inner.model, size, size)
    for camera in env.embodiment.cameras:
        ids = segmentation(renderer, env.inner.data, camera.name)
        ids = ids[::-1, ::-1] if camera.name == "corner2" else ids
        for name, body in TASKS[task].objects.items():
            rows, columns = np.nonzero(np.isin(ids, geoms_of(env.inner.model, body)))
            if len(rows) < 20:
                continue
            seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 1000 / size
            box = np.array(boxes[camera.name][name])
            inside = (box[:2] <= seen[:2] + 8).all() and (box[2:] >= seen[2:] - 8).all()
            assert inside, (camera.name, name, box, seen)
            compared += 1
            if camera.name == "corner2" and name in ("drawer", "shelf"):  # nothing hides them
                assert np.abs(box - seen).max() < 35, (name, box, seen)
    renderer.close()
    assert compared


def test_objects_out_of_view_have_no_box(env):
    env.reset(options={"scenario": Scenario(environment="metaworld", task="faucet-open", seed=3)})
    boxes = env.annotate().boxes
    assert "faucet handle" in boxes["corner2"]
    assert not boxes["gripperPOV"]


def test_the_hand_is_where_the_point_says(env):
    env.reset(options={"scenario": Scenario(environment="metaworld", task="reach", seed=0)})
    before = env.annotate().point
    for _ in range(15):
        env.step(np.array([0, 0, 1, -1], np.float32))
    after = env.annotate().point
    assert after["corner2"][1] < before["corner2"][1] - 50  # it rose, and the picture is upright
    assert np.abs(np.subtract(after["gripperPOV"], before["gripperPOV"])).max() < 30  # the wrist camera moves along


def test_contact_and_gripper_switch(env):
    env.reset(options={"scenario": Scenario(environment="metaworld", task="pick-place", seed=0)})
    assert not env.annotate().contact
    expert, switches, contacts = env.expert(np.random.default_rng(0)), [], []
    for _ in range(env.max_steps):
        if env.step(expert.act())[2]:
            break
        annotation = env.annotate()
        switches.append(annotation.gripper_switch)
        contacts.append(annotation.contact)
    assert sum(switches) == 1
    assert contacts[-1]
    assert contacts.index(True) >= switches.index(True)


def test_every_task_is_annotated(env):
    """All objects named in the table exist and are in view of the scene camera at the start."""
    for task, description in TASKS.items():
        env.reset(options={"scenario": Scenario(environment="metaworld", task=task, seed=0)})
        boxes = env.annotate().boxes["corner2"]
        assert set(boxes) == set(description.objects), task
        for x1, y1, x2, y2 in boxes.values():
            assert 0 <= x1 < x2 <= 1000, task
            assert 0 <= y1 < y2 <= 1000, task
