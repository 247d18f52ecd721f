"""Setting fields of a frozen Run by dotted names: `override(run, {"stages.train.steps": "500"})`."""

import dataclasses
import json
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from visuomotor.contract import Run
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.spelling import did_you_mean

__all__ = ["override", "parse"]

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def override(run: Run, values: Mapping[str, str]) -> Run:
    """`run` with some fields replaced; texts are parsed by the fields' types.

    Names go through dataclass fields, dictionary keys, and members of tuples by their `name` or index:
    `stages.train.trains.vision 1e-4`, `stages.train.mixture.sources.scenes.weight 2`, `processor.horizon 8`.

    Raises:
        ValueError: an unknown name (with the nearest), or a text that is not of the field's type.
    """
    for path, text in values.items():
        run = _set(run, path.split("."), text, path)
    return dataclasses.replace(run, overrides={**run.overrides, **values})


def _set(holder: Any, path: list[str], text: str, full: str) -> Any:
    """A copy of `holder` with the value at `path` replaced."""
    name, rest = path[0], path[1:]
    if dataclasses.is_dataclass(holder) and not isinstance(holder, type):
        hints = get_type_hints(type(holder))
        fields = [f.name for f in dataclasses.fields(holder) if f.init]
        name = _known(name, fields, full)
        value = getattr(holder, name)
        if rest and name == "processor" and isinstance(holder, Run):
            return dataclasses.replace(holder, processor=_processor(holder.processor, rest, text, full))
        new = _inside(value, rest, text, full, hints[name]) if rest else parse(text, hints[name], full, now=value)
        return dataclasses.replace(holder, **{name: new})
    raise ValueError(f"--{full}: {name!r} lies inside a {type(holder).__name__}, which has no fields.")


def _inside(value: Any, path: list[str], text: str, full: str, hint: Any) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(value, dict):
        member = get_args(hint)[1] if len(get_args(hint)) == 2 else Any
        if rest or dataclasses.is_dataclass(member):
            name = _known(name, value, full)
            if not rest:
                raise ValueError(f"--{full} names a whole {type(value[name]).__name__}; name one of its fields.")
            return {**value, name: _deeper(value[name], rest, text, full, member)}
        return {**value, name: parse(text, member, full, now=value.get(name))}
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(v) for v in value):
        names = [str(getattr(v, "name", i)) for i, v in enumerate(value)]
        index = int(name) if name.isdigit() and int(name) < len(value) else names.index(_known(name, names, full))
        if not rest:
            raise ValueError(f"--{full} names a whole {type(value[index]).__name__}; name one of its fields.")
        return (*value[:index], _set(value[index], rest, text, full), *value[index + 1 :])
    return _set(value, path, text, full)


def _deeper(value: Any, path: list[str], text: str, full: str, hint: Any) -> Any:
    return _inside(value, path, text, full, hint) if isinstance(value, dict | tuple) else _set(value, path, text, full)


def _processor(current: dict[str, Any], path: list[str], text: str, full: str) -> dict[str, Any]:
    """The run's processor fields: names and types are those of ProcessorConfig."""
    hints = get_type_hints(ProcessorConfig) | {
        "checkpoint": str,
        "tokenizer": str,
        "statistics": str,
        "embodiment": str,
    }
    name = _known(path[0], hints, full)
    if len(path) == 1:
        return {**current, name: parse(text, hints[name], full, now=current.get(name))}
    if name not in get_type_hints(ProcessorConfig):
        raise ValueError(f"--{full}: {name!r} has no fields.")
    value = current[name] if name in current else getattr(_processor_config(current), name)
    return {**current, name: _inside(value, path[1:], text, full, hints[name])}


def _processor_config(current: dict[str, Any]) -> ProcessorConfig:
    """What the run's processor has where nothing is set: the checkpoint's that it is taken from, or the defaults."""
    return Processor.load(Path(current["checkpoint"])).config if "checkpoint" in current else ProcessorConfig()


def parse(text: str, hint: Any, name: str, *, now: Any = None) -> Any:
    """`text` as a value of type `hint`; for Any the type of the present value `now`, else JSON or plain text."""
    if hint is Any:
        hint = type(now) if isinstance(now, bool | int | float | str) else None
    if hint is None:
        return _json(text)
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in members:
            return None
        hint = next(m for m in members if m is not type(None))
        return parse(text, hint, name)
    if origin is Literal:
        for choice in members:
            if str(choice) == text:
                return choice
        near = did_you_mean(text, map(str, members))
        raise ValueError(f"--{name} is {text!r}; choose one of {', '.join(map(str, members))}.{near}")
    if origin is tuple or hint is tuple:
        return _tuple(text, members, name)
    if origin is dict or hint is dict:
        found = _json(text)
        if not isinstance(found, dict):
            raise ValueError(f"--{name} is {text!r}; expected a JSON object, or name one key: --{name}.KEY VALUE.")
        return found
    return _scalar(text, hint, name)


def _scalar(text: str, kind: Any, name: str) -> Any:
    try:
        if kind is bool:
            return TRUTH[text.lower()]
        if kind is int:
            number = float(text) if "e" in text.lower() else int(text)
            if number != int(number):
                raise ValueError
            return int(number)
        if kind in (float, str):
            return kind(text)
    except (KeyError, ValueError):
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kind.__name__]
        raise ValueError(f"--{name} is {text!r}; expected {wanted}.") from None
    raise ValueError(f"--{name} is a {getattr(kind, '__name__', kind)}, which cannot be set as a whole; name a field.")


def _tuple(text: str, members: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """'[1, 2]' or '1,2' -> (1, 2)."""
    found = _json(text)
    items = [str(i) for i in found] if isinstance(found, list) else [i.strip() for i in text.split(",") if i.strip()]
    variadic = len(members) == 2 and members[1] is Ellipsis
    if members and not variadic and len(items) != len(members):
        raise ValueError(f"--{name} is {text!r}; expected {len(members)} values.")
    kinds = [members[0] if variadic else members[i] if members else Any for i in range(len(items))]
    return tuple(parse(item, kind, name) for item, kind in zip(items, kinds, strict=True))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _known(name: str, names: Iterable[str], full: str) -> str:
    """`name` as it is spelled in `names` (hyphens may stand for underscores)."""
    known = list(names)
    for candidate in (name, name.replace("-", "_")):
        if candidate in known:
            return candidate
    raise ValueError(f"--{full}: there is no {name!r} here.{did_you_mean(name, known)} Known: {', '.join(known)}.")
