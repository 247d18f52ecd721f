"""Data sets by name: a LeRobot v3 folder, or a format of the user's own."""

import re
from inspect import signature
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from visuomotor.data.episodes import SUPPLIED, EpisodeSource
from visuomotor.data.lerobot import Dataset
from visuomotor.plugins import is_reference, load

__all__ = ["open_source"]

REFERENCE = re.compile(r"(?P<thing>.+?\.py:\w+)(?::(?P<path>.+))?")


def open_source(name: Path | str) -> EpisodeSource:
    """The data set that `name` stands for.

    A folder is a LeRobot v3 data set. `FILE.py:thing:PATH` is what `thing` of the user's file, a class or function,
    makes of PATH; without PATH it is called without arguments.

    Raises:
        ValueError: what `thing` returns is not an `EpisodeSource`; the sentence names what it lacks.
    """
    name = str(name)
    if not is_reference(name):
        return Dataset(name)
    match = REFERENCE.fullmatch(name)
    thing, path = (match["thing"], match["path"]) if match else (name, None)
    make = load(thing, (type, FunctionType), "a data format")
    arguments = () if path is None else (path,)
    try:
        signature(make).bind(*arguments)
    except TypeError:
        raise ValueError(
            f"{thing} takes {signature(make)}, but {name} gives {len(arguments)} arguments; write FILE.py:thing:PATH "
            f"for a format that takes a path, FILE.py:thing for one that takes none."
        ) from None
    return _checked(make(*arguments), name)


def _checked(source: Any, name: str) -> EpisodeSource:
    """The source, or ValueError with what it lacks to be a data set."""
    derived = EpisodeSource in type(source).__mro__
    members = [] if derived else [m for m in dir(EpisodeSource) if not m.startswith("_")]
    required = [*SUPPLIED, *members]
    lacking = [m for m in dict.fromkeys(required) if not _has(source, m)]
    if lacking:
        hint = "" if derived else " Derive its class from EpisodeSource for the rest."
        supplied = ", ".join(m for m in lacking if m in SUPPLIED) or ", ".join(lacking)
        raise ValueError(f"{name} gave a {type(source).__name__}, which lacks {supplied} of a data set.{hint}")
    for fault in _faults(source):
        raise ValueError(f"{name} gave a {type(source).__name__} whose {fault}.")
    return source


def _has(source: Any, member: str) -> bool:
    """Whether a source has a member of its own; the protocol's functions without a body do not count."""
    inherited = member in SUPPLIED and getattr(type(source), member, None) is getattr(EpisodeSource, member, source)
    return hasattr(source, member) and not inherited


def _faults(source: EpisodeSource) -> list[str]:
    starts, faults = np.asarray(source.starts), []
    if starts.ndim != 1 or len(starts) < 2 or starts[0] != 0 or (np.diff(starts) < 0).any():
        return [
            f"starts are {starts.tolist()[:5]}; give the first row of each episode, from 0 on, and the number of rows"
        ]
    for column, values in source.columns.items():
        if len(values) != starts[-1]:
            faults.append(f"column {column!r} has {len(values)} rows, not {starts[-1]}, the end of starts")
    robot = source.embodiment
    for camera in () if robot is None else robot.cameras:
        if camera.name not in source.cameras:
            faults.append(f"cameras are {list(source.cameras)} without {camera.name!r} of its embodiment; add it")
    for camera in source.cameras if starts[-1] else ():
        image = source.frames(camera, np.zeros(1, np.int64))
        if image.dtype != np.uint8 or image.ndim != 4 or len(image) != 1 or image.shape[3] != 3:
            given = f"{image.dtype}{list(image.shape)}"
            faults.append(f"frames({camera!r}, [0]) are {given} instead of uint8[1, h, w, 3]; convert them")
    return faults
