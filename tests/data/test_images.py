import numpy as np
from PIL import Image

from visuomotor.data.images import fit


def test_square_resize_is_pillow_bicubic() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(fit(image, 24) - expected).max() <= 1


def test_wide_images_are_centred_on_grey() -> None:
    image = np.full((2, 10, 20, 3), 255, dtype=np.uint8)
    out = fit(image, 20)
    assert out.shape == (2, 20, 20, 3)
    assert (out[:, :5] == 127).all()
    assert (out[:, 5:15] == 255).all()


def test_the_right_size_is_returned_as_it_is() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    assert fit(image, 8) is image
