"""What a pickle from the network may hold: plain values come back equal, everything else is refused and not run."""

import collections
import copyreg
import os
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.serving.robochallenge import unpickling
from visuomotor.serving.robochallenge.unpickling import UnsafePickle, loads

HASHABLE = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False)
)  # fmt: skip
NUMBERS = st.sampled_from(["?", "i1", "<u2", ">i4", "u8", "<f2", ">f4", "f8", "c16"]).flatmap(
    lambda kind: st.integers(0, 1).map(lambda n: np.dtype(kind).type(n))
)
PLAIN = st.recursive(
    HASHABLE | NUMBERS | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
    ),
    max_leaves=12,
)


@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
@settings(max_examples=200, deadline=None)
def test_plain_values_come_back_equal(value: Any, protocol: int) -> None:
    read = loads(pickle.dumps(value, protocol))
    assert read == value
    assert type(read) is type(value)


def test_numpy_scalars_keep_type_and_value_also_from_numpy_1() -> None:
    for value in (np.float32(1.5), np.int64(-3), np.bool_(True), np.uint8(7)):
        for protocol in (2, 5):
            data = pickle.dumps(value, protocol)
            for name in (data, data.replace(b"_core.multiarray", b"core.multiarray")):
                if protocol == 5:
                    name = data  # the length of the name is part of the opcode
                assert loads(name) == value
                assert loads(name).dtype == value.dtype


class Evil:
    """A value whose pickle calls `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


FUNCTIONS = [
    (os.system, "posix.system"), (eval, "builtins.eval"), (exec, "builtins.exec"), (getattr, "builtins.getattr"),
    (__import__, "builtins.__import__"), (open, "io.open"), (copyreg._reconstructor, "copyreg._reconstructor"),
    (np.array, "numpy.array"), (np.load, "numpy.load"), (collections.OrderedDict, "collections.OrderedDict"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "name"), FUNCTIONS, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_anything_else_is_refused_by_name_and_not_run(function: Any, name: str, protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    nested = {"images": [{"high": (Evil(function, f"touch {trace}"),)}]}
    last = name.rpartition(".")[2]
    with pytest.raises(UnsafePickle, match=f"asks for .*{last}, which is refused"):
        loads(pickle.dumps(nested, protocol))
    assert not trace.exists()


@pytest.mark.parametrize("value", [np.arange(3), np.dtype("f4"), print, Evil, {np.float32}, set, (b"x", [frozenset])])
def test_arrays_functions_and_classes_are_no_plain_values(value: Any) -> None:
    with pytest.raises(UnsafePickle, match=r"refused|no plain value|only plain numbers"):
        loads(pickle.dumps(value))


def unframed(*operations: bytes) -> bytes:
    return b"\x80\x04" + b"".join(operations) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


TUPLE1, TUPLE2, TUPLE3, REDUCE, BUILD, NONE, NEWOBJ = b"\x85", b"\x86", b"\x87", b"R", b"b", b"N", b"\x81"
NUMBER = named("numpy", "dtype") + text("f8") + b"\x89\x88" + TUPLE3 + REDUCE


@pytest.mark.parametrize(
    "data",
    [
        unframed(named("builtins", "set.__class__")),
        unframed(named("builtins", "complex"), text("x"), b"}", text("x"), b"K\x01s", TUPLE2, BUILD),
        unframed(named("builtins", "set"), b"}" + text("__class__") + named("builtins", "bytes") + b"s", BUILD),
        unframed(named("builtins", "set"), b")", NEWOBJ),
        unframed(named("builtins", "bytearray"), b"\x8a\x05" + (10**10).to_bytes(5, "little"), TUPLE1, REDUCE),
        unframed(named("_codecs", "encode"), text("x"), text("rot13"), TUPLE2, REDUCE),
        unframed(named("numpy", "dtype"), text("O"), b"\x89\x88", TUPLE3, REDUCE),
        unframed(named("numpy", "dtype"), text("f8,O"), b"\x89\x88", TUPLE3, REDUCE),
        unframed(named("numpy._core.multiarray", "scalar"), NUMBER, b"C\x02ab", TUPLE2, REDUCE),
        unframed(named("numpy._core.multiarray", "scalar"), NUMBER, b"}", TUPLE2, REDUCE),
        unframed(NUMBER, b"(K\x03" + text("<") + b"NN)K\x00K\x00K\x00t", BUILD),
        unframed(NUMBER),
        unframed(NUMBER, NONE + b"}" + text("dtype") + b"K\x01s" + TUPLE2, BUILD),
        unframed(b"\x82\x01"),
        unframed(text("outside"), b"Q"),
        unframed(b"Nr" + struct.pack("<I", 2**32 - 1)),
        unframed(b"I" + b"9" * 5000 + b"\n"),
        b"c" + b"os\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"",
        b"no pickle",
        pickle.dumps({"state": "normal"})[:-4],
    ],
    ids=range(22),
)  # fmt: skip
def test_handmade_attacks_and_damage_are_refused(data: bytes) -> None:
    before = dict(unpickling._ADMITTED)
    with pytest.raises(UnsafePickle):
        loads(data)
    assert before == unpickling._ADMITTED
    assert loads(pickle.dumps({1, 2}, 2)) == {1, 2}, "an attack has changed what later pickles are read with"


@given(data=st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_random_bytes_give_plain_values_or_are_refused(data: bytes) -> None:
    for candidate in (data, data + b".", b"\x80\x04" + data + b"."):
        try:
            value = loads(candidate)
        except UnsafePickle:
            continue
        unpickling._require_plain(value)


OPCODES = [o.code.encode("latin1") for o in pickletools.opcodes]


@given(
    parts=st.lists(
        st.sampled_from([named(m, n) for m, n in [("os", "system"), ("builtins", "eval"), *unpickling._ADMITTED]])
        | st.sampled_from([text("x"), b"K\x01", *OPCODES]),
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_program_of_opcodes_gives_more_than_plain_values(parts: list[bytes]) -> None:
    try:
        value = loads(unframed(*parts))
    except UnsafePickle:
        return
    unpickling._require_plain(value)


def test_a_value_that_holds_itself_is_read() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert loads(pickle.dumps(cycle))[1][0] == 1
