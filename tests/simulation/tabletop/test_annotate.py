import numpy as np
import pytest

from tests.simulation.geoms import segmentation
from visuomotor.simulation.rendering import CameraRenderer, mujoco
from visuomotor.simulation.tabletop.annotate import project
from visuomotor.simulation.tabletop.scene import FURNITURE

PIXELS = 256


@pytest.fixture(scope="module")
def segment(env):
    """segment(camera) -> {name: bool[h, w]} of the pixels that each object or piece of furniture covers."""
    model = env.scene.model
    renderer = CameraRenderer(model, PIXELS, PIXELS)

    def masks(camera: str) -> dict[str, np.ndarray]:
        geoms = segmentation(renderer, env.scene.data, camera)
        bodies = np.where(geoms >= 0, model.geom_bodyid[geoms], -1)
        names = {item.name: f"object{k}" for k, item in enumerate(env.scene.objects)} | {n: n for n in FURNITURE}
        return {name: bodies == model.body(body).id for name, body in names.items()}

    yield masks
    renderer.close()


def outline(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 1000 / PIXELS


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def test_boxes_agree_with_a_segmentation_of_the_scene_picture(env, start, segment) -> None:
    overlaps = []
    for seed in range(6):
        start(env, ("close_drawer()", "lift(red bar)")[seed % 2], seed, object_yaw=True, camera_pose=True)
        env._arm.place(env.scene.data, np.array([0.2, -0.2, 0.28]), np.zeros(3))  # out of the way
        mujoco.mj_forward(env.scene.model, env.scene.data)
        boxes, masks = env.annotate().boxes["scene"], segment("scene")
        assert set(FURNITURE) <= set(boxes)
        overlaps += [(overlap(np.array(box), outline(masks[name])), name) for name, box in boxes.items()]
    assert np.mean([value for value, _ in overlaps]) > 0.93
    assert min(overlaps)[0] > 0.8


def test_hidden_and_far_things_have_no_box(env, segment) -> None:
    env.reset(seed=0)
    rng, checked = np.random.default_rng(0), 0
    for _ in range(15):
        env.shuffle(rng)
        found = env.annotate().boxes
        for camera, boxes in found.items():
            for name, mask in segment(camera).items():
                share = mask.mean()
                if name in boxes:
                    box = np.array(boxes[name])
                    assert mask.any(), (camera, name)
                    assert share > 0.1 * np.prod(box[2:] - box[:2]) / 1e6, (camera, name)
                    assert (box >= 0).all()
                    assert (box <= 1000).all()
                    checked += 1
                elif name not in FURNITURE and camera == "scene":
                    assert share < 0.004, (camera, name)
    assert checked > 80


def test_an_object_in_the_closed_drawer_is_not_annotated(env, start) -> None:
    start(env, "sequence(open_drawer(); put_in(yellow block, drawer); close_drawer())", 3)
    expert = env.expert(np.random.default_rng(0))
    done = False
    while not done:
        done = env.step(expert.act())[2]
    assert "yellow block" not in env.annotate().boxes["scene"]


def test_the_end_effectors_point_lies_between_the_fingers(env, start) -> None:
    start(env, "lift(red block)", 1)
    note, scene = env.annotate(), env.scene
    for camera in ("scene", "wrist"):
        ends = [scene.data.geom(f"finger_{side}_tip").xpos for side in ("left", "right")]
        left, right = (project(env._projections[camera], scene.data, end)[0] for end in ends)
        assert left < note.point[camera][0] < right


def test_contact_and_progress_follow_the_grasp(env, start) -> None:
    start(env, "lift(red block)", 1)
    expert, notes = env.expert(np.random.default_rng(0)), []
    for _ in range(env.max_steps):
        if env.step(expert.act())[2]:
            break
        notes.append(env.annotate())
    assert not notes[0].contact
    assert notes[-1].contact
    assert notes[0].progress < 0.2 < 0.6 < notes[-1].progress
    assert not any(note.gripper_switch for note in notes)
