"""vla-eval's wire format: what it looks like, what it keeps, what it refuses."""

from typing import Any

import msgpack
import numpy as np
import pytest
from visuomotor_client import vla_eval
from visuomotor_client.images import decode_image, encode_image
from visuomotor_client.vla_eval import MalformedMessage, Message

IMAGE = np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8)
FRAME: dict[str, Any] = {"type": "observation", "payload": {}, "seq": 7, "timestamp": 1.0}


def test_the_wire_has_text_keys() -> None:
    state = np.array([1, 2], np.float32)
    raw = msgpack.unpackb(vla_eval.pack(Message(type="action", payload={"actions": state}, seq=3, timestamp=2.0)))
    array = {"__ndarray__": True, "data": state.tobytes(), "dtype": "<f4", "shape": [2]}
    assert raw == {"type": "action", "payload": {"actions": array}, "seq": 3, "timestamp": 2.0}


@pytest.mark.parametrize("form", [None, "raw", "png", "jpeg"])
def test_images_and_arrays_come_back(form: str | None) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 10).astype(np.uint8)[None, :, None], (12, 10, 3)).copy()
    payload = {"images": {"scene": smooth}, "state": np.arange(3, dtype=np.float32), "task_description": "go"}
    data = vla_eval.pack(Message(type="observation", payload=payload, seq=1), image_format=form)
    back = vla_eval.unpack(data)
    assert (back.type, back.seq, back.payload["task_description"]) == ("observation", 1, "go")
    np.testing.assert_array_equal(back.payload["state"], payload["state"])
    exact = 0 if form != "jpeg" else 8
    assert np.abs(back.payload["images"]["scene"].astype(int) - smooth).max() <= exact


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_channel(channels: int) -> None:
    image = np.random.default_rng(1).integers(0, 255, (5, 4, channels), np.uint8)
    np.testing.assert_array_equal(decode_image(encode_image(image, "png")), image)


def test_an_image_that_lies_about_its_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"said to be \[2, 2, 3\]"):
        decode_image({**encode_image(IMAGE, "png"), "shape": [2, 2, 3]})
    with pytest.raises(ValueError, match=r"said to be"):
        decode_image({**encode_image(IMAGE, "png"), "shape": [12, 10, 4]})
    with pytest.raises(ValueError, match="cannot be decoded as png"):
        decode_image({**encode_image(IMAGE, "jpeg"), "format": "png"})
    with pytest.raises(ValueError, match="cannot be decoded as png"):
        decode_image({**encode_image(IMAGE, "png"), "data": encode_image(IMAGE, "png")["data"][:60]})


def test_jpeg_is_for_colour_images_only() -> None:
    with pytest.raises(ValueError, match="three channels"):
        encode_image(IMAGE[:, :, :1], "jpeg")
    with pytest.raises(ValueError, match="gif"):
        encode_image(IMAGE, "gif")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "greeting"}, "Unknown message type"),
        ({"type": None}, "Unknown message type"),
        ({"payload": 3}, "payload must be a map"),
        ({"timestamp": "now"}, "timestamp must be a number"),
        ({"payload": {"x": {"__ndarray__": True, "data": b"", "dtype": "|O", "shape": [0]}}}, "not accepted"),
        (
            {"payload": {"x": {"__image__": True, "format": "png", "data": b"x", "shape": [1, 1, 3]}}},
            "cannot be decoded",
        ),
    ],
)
def test_a_malformed_message_is_refused_with_its_number(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedMessage, match=said) as caught:
        vla_eval.unpack(msgpack.packb({**FRAME, **change}))
    assert caught.value.seq == 7


@pytest.mark.parametrize("key", FRAME)
def test_every_field_is_required(key: str) -> None:
    with pytest.raises(MalformedMessage, match=key):
        vla_eval.unpack(msgpack.packb({k: v for k, v in FRAME.items() if k != key}))


def test_random_bytes_give_a_message_or_a_sentence() -> None:
    rng = np.random.default_rng(0)
    whole = vla_eval.pack(Message(type="observation", payload={"i": IMAGE, "s": np.zeros(2)}), image_format="png")
    refused = 0
    for _ in range(5000):
        data = bytearray(whole) if rng.random() < 0.5 else bytearray(rng.bytes(int(rng.integers(1, 60))))
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        try:
            vla_eval.unpack(bytes(data))
        except MalformedMessage:
            refused += 1
    assert refused > 2000
