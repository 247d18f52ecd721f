"""Pickles that may come from anybody: plain values are read, everything else is refused by its name.

The platform sends a robot's state as a pickle over plain HTTP, and a pickle is a program. Here it can build containers,
numbers, bytes, strings and numpy scalars, and can call nothing: the few functions that such values are pickled with
are replaced by ours, which check their arguments.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["UnsafePickle", "loads"]

PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, np.bool_, np.number)
FORBIDDEN = {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}
LONGEST_NUMBER = 4300  # digits of an integer written as text: reading them takes quadratic time


class UnsafePickle(ValueError):
    """A pickle that holds something else than plain values, or is damaged."""


def loads(data: bytes) -> Any:
    """The plain value in a pickle: None, bool, int, float, complex, str, bytes, bytearray, numpy scalars, and lists,
    tuples, sets and dictionaries of them.

    Raises:
        UnsafePickle: it names anything else, is truncated or is not a pickle. Nothing of it was run.
    """
    try:
        _scan(data)
        value = _Unpickler(io.BytesIO(data)).load()
        _require_plain(value)
    except UnsafePickle:
        raise
    except Exception as error:  # a damaged pickle may fail anywhere in the unpickler
        raise UnsafePickle(
            f"The pickle is damaged ({type(error).__name__}: {error}); nothing of it was used."
        ) from error
    return value


def _scan(data: bytes) -> None:
    """Refuse operations that no plain value needs, and memo places that only serve to take memory."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name in FORBIDDEN:
            raise UnsafePickle(f"The pickle has the operation {operation.name}, which no plain value needs; refused.")
        if operation.name in MEMO and int(argument or 0) > count:
            raise UnsafePickle(f"The pickle remembers a value in place {argument} of {count}; refused.")
        if operation.name in ("INT", "LONG") and abs(int(argument or 0)) >= 10**LONGEST_NUMBER:
            raise UnsafePickle("The pickle has an integer of absurd length; refused.")


class _Stand:
    """Stands for a function or class that plain values are pickled with. Nothing about it can be changed."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UnsafePickle(f"The pickle tries to change {self.name}; refused.")

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickle(f"The pickle tries to change {self.name}; refused.")


class _Dtype:
    """A dtype on its way: the real one would take any state, checked by C code that trusts it."""

    __slots__ = ("dtype",)

    def __init__(self, text: Any, align: Any = False, copy: Any = True) -> None:
        dtype = np.dtype(text) if isinstance(text, str) and len(text) <= 4 else None
        if dtype is None or dtype.kind not in "biufc" or dtype.names or dtype.subdtype:
            raise UnsafePickle(f"The pickle has a numpy value of type {text!r}; only plain numbers are admitted.")
        object.__setattr__(self, "dtype", dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UnsafePickle("The pickle tries to change a numpy type; refused.")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise UnsafePickle(
                f"The pickle has a numpy type with the state {state!r}; only plain numbers are admitted."
            )
        if any(part is not None for part in state[2:5]):
            raise UnsafePickle("The pickle has a structured numpy type; only plain numbers are admitted.")
        object.__setattr__(self, "dtype", self.dtype.newbyteorder(state[1]))


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or len(data) != dtype.dtype.itemsize:
        raise UnsafePickle("The pickle has a numpy scalar whose bytes do not fit its type; refused.")
    return np.frombuffer(data, dtype.dtype)[0]


def _encode(text: Any, encoding: Any = None) -> bytes:
    """How bytes are written in protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickle(f"The pickle asks for the encoding {encoding!r}; bytes are written in latin1.")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: Any = None) -> bytearray:
    return bytearray(_encode(data, encoding) if isinstance(data, str) else _of(bytes, data))


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise UnsafePickle(
            f"The pickle builds a value from {type(value).__name__} instead of {kind.__name__}; refused."
        )
    return value


_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": lambda items=(): set(_of(list, items) if items else ()),
    "frozenset": lambda items=(): frozenset(_of(list, items) if items else ()),
    "complex": lambda real, imaginary: complex(_of(float, real), _of(float, imaginary)),
    "bytearray": _bytearray,
    "bytes": lambda: b"",  # how empty bytes are written in protocols 0 to 2
}
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    **{(module, name): call for module in ("builtins", "__builtin__") for name, call in _BUILTINS.items()},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if (call := _ADMITTED.get((module_name, global_name))) is None:
            raise UnsafePickle(
                f"The pickle asks for {name}, which is refused: a robot's state is containers, numbers, bytes, strings "
                f"and numpy scalars."
            )
        return _Stand(name, call)

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle(f"The pickle asks for the outside object {pid!r}; refused.")


def _require_plain(value: Any) -> None:
    """UnsafePickle where a value is itself one of the functions that it was to be built with."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            parts = [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            parts = list(item)
        elif isinstance(item, PLAIN):
            continue
        else:
            name = item.name if isinstance(item, _Stand) else type(item).__name__
            raise UnsafePickle(f"The pickle holds {name} itself, which is no plain value; refused.")
        if id(item) not in seen:
            seen.add(id(item))
            waiting.extend(parts)
