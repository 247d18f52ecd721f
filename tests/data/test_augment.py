import numpy as np
import pytest

from visuomotor.data.augment import AugmentConfig, Shift, augment, centre_crop, draw_shift


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


def test_a_crop_is_stretched_and_the_centre_at_inference() -> None:
    """Every pixel holds its place, so that a crop says where it was taken."""
    rows, columns = np.mgrid[:100, :100].astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)
    centre = centre_crop(image, 0.2)
    assert centre.shape == image.shape
    assert abs(centre[0, 0, :2].astype(int) - 10).max() <= 1  # the middle 80 pixels, 10 to 89
    assert abs(centre[-1, -1, :2].astype(int) - 89).max() <= 1
    assert centre_crop(image, 0.0) is image
    corners = [augment(image, Shift(), AugmentConfig(crop=0.2), np.random.default_rng(s))[0, 0, :2] for s in range(40)]
    assert min(corner.min() for corner in corners) <= 1
    assert max(corner.max() for corner in corners) >= 18


def test_rotation_turns_about_the_centre() -> None:
    image = np.full((21, 21, 3), 9, dtype=np.uint8)
    image[10, 10] = 200
    turned = augment(image, Shift(), AugmentConfig(rotation=90.0), np.random.default_rng(0))
    assert (turned[10, 10] == 200).all()
    assert not turned[0, 0].any()
    with pytest.raises(ValueError, match="degrees"):
        AugmentConfig(rotation=-5.0)


def test_saturation_keeps_the_grey_value() -> None:
    image = np.array([[[200, 100, 50], [90, 90, 90]]], dtype=np.uint8)
    weights = np.array([0.299, 0.587, 0.114])
    found = augment(image, Shift(), AugmentConfig(saturation=0.5), np.random.default_rng(0))
    np.testing.assert_array_equal(found[0, 1], 90)
    assert abs((found[0, 0] - image[0, 0].astype(float)) @ weights) < 1
    assert (found[0, 0] != image[0, 0]).any()


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="contrast is"):
        AugmentConfig(contrast=1.5)
