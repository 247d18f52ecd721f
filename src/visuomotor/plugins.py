"""Objects from a user's own Python file, named as `FILE.py:thing`.

    world = load("worlds/my_world.py:WORLD", WorldSpec, "a world")

A file is loaded once in a process: every reference to it gives the same module object. The module's name contains the
file's absolute path, and this module finds it by that name. So classes and instances from the file can be pickled, and
a worker process that unpickles them loads the same file by itself.
"""

import importlib
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from inspect import isclass, isfunction
from pathlib import Path
from types import ModuleType
from typing import Any

from visuomotor.spelling import did_you_mean

__all__ = ["file_of", "is_reference", "load"]

__path__: list[str] = []  # makes this module a package, whose submodules `_Finder` provides


def is_reference(text: str) -> bool:
    """Whether `text` is written as a reference, `FILE.py:thing` or `FILE.py`."""
    return text.endswith(".py") or ".py:" in text


def file_of(reference: str) -> Path:
    """The file that a reference names an object of."""
    return Path(_split(reference)[0]).expanduser().resolve()


def load(reference: str, expected: type | tuple[type, ...], what: str) -> Any:
    """The object of type `expected` that `reference` names.

    A file without a name after it stands for its only object of that type.

    Args:
        what: a noun phrase with its article for error messages, such as "a world".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file raises an error, has no such name (the nearest is named), or the object is of another type.
    """
    (path, name), file = _split(reference), file_of(reference)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {path}, from which {what} was to be loaded; give FILE.py:NAME.")
    module = _import(file)
    candidates = [key for key, value in vars(module).items() if _is_candidate(module, key, value, expected)]
    if not name and len(candidates) == 1:
        name = candidates[0]
    if not name or not hasattr(module, name):
        fault = f"has no {name!r}.{did_you_mean(name, candidates)}" if name else f"does not say which object is {what}."
        choices = ", ".join(candidates) or "none"
        raise ValueError(f"{path} {fault} Expected {_names(expected)}; the file has {choices}. Give FILE.py:NAME.")
    value = getattr(module, name)
    if not isinstance(value, expected):
        kind = f"the class {value.__name__}" if isclass(value) else f"of type {type(value).__name__}"
        hint = f" Candidates in the file: {', '.join(candidates)}." if candidates else ""
        raise ValueError(f"{reference} is {kind}, but {what} must be of type {_names(expected)}.{hint}")
    return value


def _split(reference: str) -> tuple[str, str]:
    path, _, name = reference.rpartition(":")
    return (path, name) if path.endswith(".py") else (reference, "")


class _Finder:
    """Import hook for the modules of users' files."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        prefix, _, encoded = name.rpartition(".")
        if prefix != __name__:
            return None
        return spec_from_file_location(name, encoded.replace("%2E", ".").replace("%25", "%"))


sys.meta_path.append(_Finder())


def _import(file: Path) -> ModuleType:
    """The module of a file; one that is imported under another name already stays the only one."""
    for module in list(sys.modules.values()):
        origin = getattr(module, "__dict__", {}).get("__file__")
        if origin and Path(origin).name == file.name and Path(origin).resolve() == file:
            return module
    encoded = str(file).replace("%", "%25").replace(".", "%2E")  # a dot would separate packages
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # the file may import its neighbours, as a script may
    try:
        return importlib.import_module(f"{__name__}.{encoded}")
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        place = f"{file}, line {lines[-1]}" if lines else str(file)
        raise ValueError(f"{place}: loading the file raised {type(error).__name__}: {error}") from error


def _is_candidate(module: ModuleType, name: str, value: Any, expected: type | tuple[type, ...]) -> bool:
    """Whether an object can be meant by a reference: of the expected type, and not only imported by the file."""
    imported = (isfunction(value) or isclass(value)) and value.__module__ != module.__name__
    return isinstance(value, expected) and not name.startswith("_") and not imported


def _names(expected: type | tuple[type, ...]) -> str:
    types = expected if isinstance(expected, tuple) else (expected,)
    return " or ".join("class" if kind is type else kind.__name__ for kind in types)
