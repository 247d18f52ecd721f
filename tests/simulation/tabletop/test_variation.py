import numpy as np
import pytest

from visuomotor.simulation.tabletop.taskspec import TaskSpec
from visuomotor.simulation.tabletop.variation import Variation, sample_layout, stream

LIFT = TaskSpec("lift", "red", "block")


def layouts(spec: TaskSpec, count: int = 150, **options):
    return [sample_layout(spec, "full", Variation(**options), stream(seed, "layout")) for seed in range(count)]


def test_open_fingers_fit_between_objects() -> None:
    for layout in layouts(LIFT):
        for k, place in enumerate(layout.places):
            others = np.linalg.norm(np.delete(layout.places, k, axis=0) - place, axis=1)
            assert others.min() > 0.09


def test_all_named_objects_are_there_once() -> None:
    spec = TaskSpec("push_behind", "red", "block", reference=("blue", "cup"))
    for layout in layouts(spec, distractors=3):
        names = [item.name for item in layout.objects]
        assert {"red block", "blue cup"} <= set(names)
        assert len(names) == len(set(names)) == 5


def test_the_scene_does_not_tell_which_object_is_meant() -> None:
    """Neither place nor order nor kinship of the objects may give the goal away: every role occurs equally often."""
    roles, order, x = [], [], []
    for layout in layouts(LIFT, count=600):
        names = [item.name for item in layout.objects]
        kin = [
            sum((a.colour == b.colour) + (a.shape == b.shape) for b in layout.objects if b is not a)
            for a in layout.objects
        ]
        goal = names.index("red block")
        order.append(goal)
        roles.append(kin[goal] == max(kin) and kin.count(max(kin)) == 1)
        x.append(layout.places[goal, 0] - layout.places[:, 0].mean())
    assert np.mean(roles) == pytest.approx(1 / 3, abs=0.08)
    np.testing.assert_allclose(np.bincount(order) / 600, 1 / 3, atol=0.07)
    assert abs(np.mean(x)) < 0.01


def test_an_arm_may_start_anywhere_and_touches_nothing(env, start) -> None:
    starts = []
    for seed in range(40):
        start(env, "lift(red block)", seed, anywhere=1.0)
        places = env.scene.start.copy()
        starts.append(env.scene.eef.copy())
        env.step(np.zeros(7))
        moved = [env.scene.position(k) - places[k] for k in range(len(env.scene.objects))]
        assert np.abs(moved).max() < 0.005
    spread = np.ptp(starts, axis=0)
    assert (spread > [0.45, 0.35, 0.15]).all(), spread
    start(env, "lift(red block)", 3)
    near_home = env.scene.eef.copy()
    start(env, "lift(red block)", 3, anywhere=0.0)
    np.testing.assert_array_equal(env.scene.eef, near_home)


def test_each_variation_changes_only_its_own_thing(env, start) -> None:
    def look(**options) -> tuple[np.ndarray, np.ndarray]:
        start(env, "lift(red block)", 9, **options)
        return env.state().copy(), env.images(["scene"])["scene"].astype(int)

    state, picture = look()
    for name in ("lighting", "background", "camera_pose", "object_yaw"):
        other_state, other_picture = look(**{name: True})
        np.testing.assert_array_equal(state, other_state)
        assert np.abs(picture - other_picture).mean() > 0.3, name
    np.testing.assert_array_equal(look()[1], picture)
    assert not np.array_equal(look(initial_pose=0.08)[0], state)
    assert len({len(look(distractors=k)) and len(env.scene.objects) for k in (0, 1, 2)}) == 3


@pytest.mark.parametrize("options", [{"distractors": 9}, {"initial_pose": 1.0}, {"furniture": -0.1}])
def test_impossible_variation_is_refused(options) -> None:
    with pytest.raises(ValueError, match=r"has room for|at most"):
        Variation(**options)


def test_shuffle_makes_many_different_annotated_arrangements(env) -> None:
    env.reset(seed=0)
    rng, places, names = np.random.default_rng(1), [], set()
    for _ in range(40):
        env.shuffle(rng)
        note = env.annotate()
        names |= set(note.boxes["scene"])
        places.append(env.state()[:3])
        assert len(note.boxes["scene"]) >= 4
    assert {"left bowl", "right bowl", "drawer", "button"} <= names
    assert len(names) > 20
    assert np.std(places, axis=0).min() > 0.05
