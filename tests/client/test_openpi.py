"""openpi's wire format: what it looks like, what it keeps, what it refuses."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, boolean_dtypes, floating_dtypes, integer_dtypes
from visuomotor_client import openpi
from visuomotor_client.images import encode_image

DTYPES = boolean_dtypes() | integer_dtypes(endianness="<") | floating_dtypes(endianness="<", sizes=(16, 32, 64))


def test_the_wire_has_byte_keys_and_nothing_but_msgpack() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = msgpack.unpackb(openpi.pack({"a": array, "b": np.float32(0.5), "prompt": "go"}))
    assert raw["a"] == {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "<f4", b"shape": [2, 3]}
    assert raw["b"] == {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"}
    assert raw["prompt"] == "go"


@settings(max_examples=60, deadline=None)
@given(array=DTYPES.flatmap(lambda d: arrays(d, array_shapes(min_dims=0, min_side=0, max_side=4))))
def test_arrays_come_back_as_they_were(array: np.ndarray) -> None:
    back = openpi.unpack(openpi.pack({"x": {"y": [array]}}))["x"]["y"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_strided_arrays_and_scalars_come_back() -> None:
    chw = np.arange(24, dtype=np.uint8).reshape(2, 4, 3).transpose(2, 0, 1)
    np.testing.assert_array_equal(openpi.unpack(openpi.pack(chw)), chw)
    for scalar in (np.float32(0.25), np.int32(-3), np.bool_(True)):
        back = openpi.unpack(openpi.pack(scalar))
        assert back == scalar
        assert type(back) is type(scalar)


@pytest.mark.parametrize("array", [np.array([1j]), np.array([None]), np.zeros(1, "i4,f4")])
def test_what_is_no_number_is_not_sent(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        openpi.pack({"x": array})


@pytest.mark.parametrize(
    "array",
    [
        {b"data": b"\0" * 8, b"dtype": "|O", b"shape": [1]},
        {b"data": b"\0" * 8, b"dtype": "|V8", b"shape": [1]},
        {b"data": b"\0" * 8, b"dtype": "<c8", b"shape": [1]},
        {b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [3]},
        {b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [1]},  # more bytes than the shape says
        {b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [-1, -2]},
        {b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2.0]},
        {b"data": b"", b"dtype": "<f4", b"shape": [2**40, 2**40]},
        {b"data": b"\0" * 8, b"dtype": "no such type", b"shape": [2]},
        {b"data": b"\0" * 8, b"dtype": "<q4", b"shape": [2]},
        {b"data": b"\0" * 8, b"dtype": "f4," * 100, b"shape": [2]},
        {b"data": "text", b"dtype": "<f4", b"shape": [1]},
        {b"dtype": "<f4"},
    ],
)
def test_malformed_arrays_are_refused_in_a_sentence(array: dict[bytes, Any]) -> None:
    with pytest.raises(ValueError, match=r"^The message cannot be decoded: .*\.$"):
        openpi.unpack(msgpack.packb({"x": {b"__ndarray__": True, **array}}))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81", b"\x91" * 5000, msgpack.packb({"a": 1}) + b"\0"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        openpi.unpack(data)


def test_extensions_are_refused() -> None:
    with pytest.raises(ValueError, match="extension type 5"):
        openpi.unpack(msgpack.packb(msgpack.ExtType(5, b"x")))


def test_random_bytes_give_a_value_or_a_sentence() -> None:
    rng = np.random.default_rng(0)
    whole = bytearray(openpi.pack({"a": np.zeros((2, 3), np.float32), "b": np.int8(1), "c": "text"}))
    refused = 0
    for _ in range(5000):
        data = rng.bytes(int(rng.integers(0, 60)))
        if rng.random() < 0.5:
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
        try:
            openpi.unpack(bytes(data))
        except ValueError as error:
            refused += str(error).startswith("The message cannot be decoded")
    assert refused > 1000


@given(value=st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), lambda s: st.lists(s)))
def test_plain_values_come_back(value: Any) -> None:
    assert openpi.unpack(openpi.pack({"v": value})) == {"v": value}


def test_images_may_come_compressed() -> None:
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    np.testing.assert_array_equal(openpi.unpack(openpi.pack({"i": encode_image(image, "png")}))["i"], image)
