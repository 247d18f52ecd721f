import numpy as np
import pytest

from tests.simulation.geoms import segmentation
from visuomotor.simulation.rendering import CameraRenderer, mujoco

SCENE = """
<mujoco><worldbody>
  <light pos="0 0 3" dir=".3 0 -1"/>
  <camera name="top" pos="0 0 2" fovy="60"/>
  <geom name="ground" type="box" size="2 2 .1" pos="0 0 -.1"/>
  <geom name="cube" type="box" size=".2 .2 .2" pos=".4 0 .2" rgba="1 0 0 1"/>
</worldbody></mujoco>"""


def scene():
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("quality", ["fast", "default"])
def test_render_and_segmentation_show_the_same_cube(quality) -> None:
    model, data = scene()
    renderer = CameraRenderer(model, 48, 64, quality)
    picture, geoms = renderer.render(data, "top"), segmentation(renderer, data, "top")
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    cube = geoms == model.geom("cube").id
    assert 30 < cube.sum() < 600
    assert cube[:, 32:].sum() > 0.95 * cube.sum()
    red = picture[..., 0] > 3.0 * picture[..., 1] + 3
    assert (red & cube).sum() > 0.8 * cube.sum()
    np.testing.assert_array_equal(renderer.render(data, "top"), picture)
    renderer.close()
    renderer.close()
    np.testing.assert_array_equal(renderer.render(data, "top"), picture)
    renderer.close()


def test_fast_has_no_shadows_and_default_keeps_the_models_quality() -> None:
    pictures = {}
    for quality in ("fast", "default"):
        model, data = scene()
        before = model.vis.quality.shadowsize
        renderer = CameraRenderer(model, 64, 64, quality)
        assert model.vis.quality.shadowsize == (0 if quality == "fast" else before)
        pictures[quality] = renderer.render(data, "top").astype(int)
        renderer.close()
    assert np.abs(pictures["fast"] - pictures["default"]).max() > 20


def test_pictures_larger_than_the_models_buffer_work() -> None:
    model, data = scene()
    renderer = CameraRenderer(model, 700, 700)
    assert renderer.render(data, "top").shape == (700, 700, 3)
    renderer.close()


def test_unknown_quality_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown render quality 'best'"):
        CameraRenderer(scene()[0], 32, 32, "best")
