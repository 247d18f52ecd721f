import numpy as np
import pytest

from visuomotor.data.augment import AugmentConfig, Shift, augment, draw_shift


def test_off_by_default() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    assert augment(image, draw_shift(AugmentConfig(), rng), AugmentConfig(), rng) is image


def test_a_shifted_object_lies_in_its_shifted_box() -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[20:30, 40:60] = 255
    shift = Shift(0.1, -0.05)
    box = shift.box((400, 200, 600, 300))
    assert box == (500, 150, 700, 250)
    moved = shift.image(image)
    rows, columns = np.nonzero(moved[..., 0])
    assert (columns.min() * 10, rows.min() * 10, (columns.max() + 1) * 10, (rows.max() + 1) * 10) == box
    assert shift.point(400, 200) == (500, 150)


def test_a_box_that_leaves_the_image_is_dropped() -> None:
    assert Shift(0.5, 0.0).box((800, 0, 1000, 100)) is None
    assert Shift(0.05, 0.0).box((800, 0, 1000, 100)) == (850, 0, 1000, 100)


def test_jitter_depends_on_the_generator_and_leaves_the_image_alone() -> None:
    config = AugmentConfig(brightness=0.3, contrast=0.3, channel=0.05)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    before = image.copy()
    one, two, other = (augment(image, Shift(), config, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    np.testing.assert_array_equal(image, before)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="contrast is"):
        AugmentConfig(contrast=1.5)
