import numpy as np
import pytest

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop.objects import COLOURS, SHAPES, Object, hide_slot, set_slot
from visuomotor.simulation.tabletop.scene import compile_scene
from visuomotor.simulation.tabletop.taskspec import FULL

MODEL = compile_scene(1)


def test_every_word_of_the_vocabulary_has_a_look() -> None:
    assert set(FULL.colours) == set(COLOURS)
    assert set(FULL.shapes) == set(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_slot_gets_mass_and_inertia_of_a_solid_of_that_shape(shape) -> None:
    """MuJoCo's own compiler is the oracle."""
    item = SHAPES[shape]
    kind, size = ("cylinder", item.size[1:]) if item.cylinder else ("box", item.size)
    geom = f'<geom type="{kind}" size="{" ".join(map(str, size))}" mass="{item.mass}"/>'
    xml = f"<mujoco><worldbody><body><freejoint/>{geom}</body></worldbody></mujoco>"
    expected = mujoco.MjModel.from_xml_string(xml)
    set_slot(MODEL, 0, Object(colour="red", shape=shape))
    body = MODEL.body("object0").id
    assert MODEL.body_mass[body] == pytest.approx(expected.body_mass[1])
    np.testing.assert_allclose(np.sort(MODEL.body_inertia[body]), np.sort(expected.body_inertia[1]), rtol=1e-6)
    assert MODEL.geom_rbound[MODEL.geom("object0").id] == pytest.approx(expected.geom_rbound[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fits_between_the_open_fingers(shape) -> None:
    assert 0.03 <= 2 * SHAPES[shape].size[0] <= 0.052


def test_a_hidden_slot_is_invisible_and_untouchable() -> None:
    set_slot(MODEL, 0, Object(colour="red", shape="cup"))
    geom, top = MODEL.geom("object0").id, MODEL.geom("object0_top").id
    assert MODEL.geom_rgba[top, 3] == 1
    hide_slot(MODEL, 0)
    assert MODEL.geom_rgba[[geom, top], 3].max() == 0
    assert MODEL.geom_contype[geom] == MODEL.geom_conaffinity[geom] == 0
