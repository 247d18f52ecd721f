"""Objects that somebody else moves: pointed at in a picture, put where the picture says."""

import numpy as np
import pytest

from visuomotor.simulation.tabletop.annotate import Projection
from visuomotor.simulation.tabletop.environment import TabletopEnvironment
from visuomotor.simulation.tabletop.rearrange import REACH, on_table


@pytest.fixture(scope="module")
def environment() -> TabletopEnvironment:
    world = TabletopEnvironment(cameras_px=64)
    world.reset(seed=3)
    return world


def centre(environment: TabletopEnvironment, slot: int) -> tuple[float, float]:
    x1, y1, x2, y2 = environment.annotate().boxes["scene"][environment.scene.objects[slot].name]
    return (x1 + x2) / 2, (y1 + y2) / 2


def test_a_place_is_seen_where_it_was_pointed_at(environment: TabletopEnvironment) -> None:
    projection = Projection(environment.scene.model, "scene")
    for place in ([0.1, -0.1, 0.03], [-0.2, 0.0, 0.0]):
        seen = environment.project(np.array([place]))["scene"][0]
        found = on_table(projection, environment.scene.data, (seen[0], seen[1]), place[2])
        np.testing.assert_allclose(found, place[:2], atol=1e-6)
    assert np.isnan(environment.project(np.array([[0.0, -2.0, 0.6]]))["scene"]).all(), "behind the camera"


def test_an_object_goes_where_it_is_put_and_lies_still(environment: TabletopEnvironment) -> None:
    environment.reset(seed=3)
    others = [environment.scene.position(k).copy() for k in range(1, len(environment.scene.objects))]
    arm = environment.state()
    target = np.array([[-0.22, -0.20, environment.scene.objects[0].geometry.half_height]])
    end = environment.project(target)["scene"][0]
    moved = environment.move_object("scene", centre(environment, 0), (end[0], end[1]))
    assert moved == environment.scene.objects[0].name
    np.testing.assert_allclose(environment.scene.position(0), target[0], atol=0.004)
    assert environment.scene.speed(0) < 0.02
    for k, before in enumerate(others, 1):
        np.testing.assert_allclose(environment.scene.position(k), before, atol=0.002)
    np.testing.assert_allclose(environment.state(), arm, atol=0.01)


def test_nothing_leaves_the_table_or_lands_on_something(environment: TabletopEnvironment) -> None:
    environment.reset(seed=3)
    with pytest.raises(ValueError, match=r"no object that can be moved there; in view are .*"):
        environment.move_object("scene", (1, 1), (500, 500))
    with pytest.raises(ValueError, match="is in the way"):
        environment.move_object("scene", centre(environment, 0), centre(environment, 1))
    environment.move_object("scene", centre(environment, 0), (0, 999))
    assert (environment.scene.position(0)[:2] >= REACH[0] - 0.01).all()
    assert environment.scene.position(0)[2] > 0
