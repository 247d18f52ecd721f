import numpy as np
import pytest
from scipy.fft import dct

from visuomotor.text.fast import FastTokenizer

T, WIDTH = 8, 3


def chunks(count: int, seed: int = 0) -> list[np.ndarray]:
    """Smooth chunks: a line and half a wave in each dimension."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, T)[:, None]
    draws = rng.uniform(-0.5, 0.5, (count, 3, WIDTH))
    return [a + b * t + c * np.sin(np.pi * t) for a, b, c in draws]


TOKENS = FastTokenizer.train(chunks(300), size=128, scale=20.0)


def test_what_comes_back_is_the_rounded_chunk() -> None:
    for chunk in chunks(20, seed=1):
        back = TOKENS.decode(TOKENS.encode(chunk), WIDTH)
        assert back is not None
        assert back.shape == chunk.shape
        wanted = np.clip(np.rint(20 * dct(chunk, axis=0, norm="ortho")), TOKENS.lowest, TOKENS.highest)
        np.testing.assert_allclose(dct(back, axis=0, norm="ortho") * 20, wanted, atol=1e-4)
        again = TOKENS.decode(TOKENS.encode(back), WIDTH)
        np.testing.assert_array_equal(again, back)


def test_the_error_is_bounded_by_the_scale() -> None:
    for scale in (10.0, 40.0):
        tokens = FastTokenizer.train(chunks(300), size=256, scale=scale)
        for chunk in chunks(300)[:50]:
            back = tokens.decode(tokens.encode(chunk), WIDTH)
            assert back is not None
            # Rounding errs by half in each of T coefficients; the transform keeps the sum of squares.
            assert np.sqrt(((back - chunk) ** 2).sum(0)).max() <= 0.5 * np.sqrt(T) / scale + 1e-6


def test_smooth_chunks_take_fewer_tokens_than_numbers() -> None:
    lengths = [len(TOKENS.encode(chunk)) for chunk in chunks(50, seed=2)]
    assert np.mean(lengths) < 0.6 * T * WIDTH  # nine free numbers a chunk, of 24
    for chunk in chunks(5, seed=2):
        ids = TOKENS.encode(chunk)
        assert sum(TOKENS.lengths[i] for i in ids) == T * WIDTH
        assert ids.max() < TOKENS.size == 128


def test_low_frequencies_come_first() -> None:
    single = FastTokenizer.train([np.full((T, WIDTH), 0.01 * k) for k in range(-40, 41)], size=40, scale=10.0)
    still = np.full((T, 2), [0.1, 0.2])
    text = [single._inner.id_to_token(int(i)) for i in single.encode(still)]
    integers = [ord(c) - 0xE000 + single.lowest for token in text for c in token]
    assert integers == [round(10 * 0.1 * T**0.5), round(10 * 0.2 * T**0.5), *[0] * (2 * (T - 1))]


def test_what_stands_for_no_chunk_is_none() -> None:
    ids = TOKENS.encode(chunks(1)[0])
    assert TOKENS.decode(ids[:-1], WIDTH) is None
    assert TOKENS.decode([*ids, 0], WIDTH) is None
    assert TOKENS.decode([*ids[:-1], 5000], WIDTH) is None
    assert TOKENS.decode([], WIDTH) is None


def test_saved_and_loaded_they_are_the_same() -> None:
    loaded = FastTokenizer.from_json(TOKENS.to_json())
    assert (loaded.lengths, loaded.lowest, loaded.highest) == (TOKENS.lengths, TOKENS.lowest, TOKENS.highest)
    for chunk in chunks(5, seed=3):
        np.testing.assert_array_equal(loaded.encode(chunk), TOKENS.encode(chunk))


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="none was given"):
        FastTokenizer.train([])
    with pytest.raises(ValueError, match="raise fast_vocab, or lower fast_scale"):
        FastTokenizer.train(chunks(50), size=128, scale=1000.0)
    with pytest.raises(ValueError, match="A chunk of 4 steps came to FAST tokens of 8"):
        TOKENS.encode(np.zeros((4, WIDTH)))
