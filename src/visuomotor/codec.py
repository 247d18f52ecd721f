"""Dataclasses as JSON and back, and fields of nested ones by dotted names.

    encode(config)                               # dicts, lists, numbers, texts
    decode(DM0Config, data, "config")            # typed; an error names the field: config.llm.layers
    update(config, {"llm.layers": 4})            # a copy; values replace each other all at once
    update(run, {"config.llm.layers": "4"}, text=True)

Fields may be other dataclasses, tuples, lists, dictionaries, `Optional`, `Literal`, `Path` and unions. A union of
several dataclasses is written with the class name under "type". A class may list properties in `json_properties`:
they are written beside the fields, for readers of the file, and skipped when read.
"""

import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from visuomotor.spelling import did_you_mean

__all__ = ["decode", "encode", "names_of", "update"]

T = TypeVar("T")
TYPE = "type"
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def encode(value: Any, hint: Any = Any) -> Any:
    """`value` as JSON data. `hint`: its declared type, which decides whether a dataclass needs its "type"."""
    if _is_dataclass(value):
        hints = _hints(type(value))
        data = {name: encode(getattr(value, name), hints[name]) for name in _fields(type(value))}
        data |= {name: encode(getattr(value, name)) for name in getattr(value, "json_properties", ())}
        return {TYPE: type(value).__name__, **data} if len(_variants(get_args(hint))) > 1 else data
    if isinstance(value, Mapping):
        return {str(key): encode(inner, _member(hint)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [encode(inner, _member(hint)) for inner in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


@overload
def decode(hint: type[T], data: Any, name: str = "", *, text: bool = False, now: Any = None) -> T: ...
@overload
def decode(hint: Any, data: Any, name: str = "", *, text: bool = False, now: Any = None) -> Any: ...
def decode(hint: Any, data: Any, name: str = "", *, text: bool = False, now: Any = None) -> Any:
    """`data` as a value of type `hint`.

    Args:
        name: the dotted name under which errors report the value.
        text: `data` is a text from a command line: "1e4", "true", "none", "1,2", '{"a": 1}'.
        now: the present value; its type counts where the hint is Any.

    Raises:
        ValueError: an unknown name (with the nearest), a missing field, or a value of another type.
    """
    if type(data) is hint and not text:  # most values of a long document
        return data
    origin, members = get_origin(hint) or hint, get_args(hint)
    if origin is Any:
        if text and (_is_dataclass(now) or isinstance(now, bool | int | float | str)):
            return decode(type(now), data, name, text=True)
        return _json(data) if text else data
    if origin in (Union, types.UnionType):
        return _union(members, data, name, text)
    if origin is Literal:
        return _choice(members, data, name, text)
    if dataclasses.is_dataclass(origin):
        return _dataclass(origin, data, name, text)
    if origin in (tuple, list):
        return _sequence(origin, members, data, name, text)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(hint, _json(data) if text else data, name, text)
    return _scalar(origin, data, name, text)


def update(value: T, changes: Mapping[str, Any], *, text: bool = False) -> T:
    """A copy of a dataclass with some fields replaced, all at once, so that they are checked together.

    Names go through dataclass fields, dictionary keys, and members of tuples by their `name` or index:
    `stages.train.trains.vision`, `stages.train.mixture.sources.scenes.weight`. Hyphens may stand for underscores.
    `text`: values are texts from a command line, which are parsed by the fields' types.

    Raises:
        ValueError: an unknown name (with the nearest), a value of another type, or one that follows from other fields.
    """
    paths = {tuple(name.split(".")): new for name, new in changes.items()}
    job = _Update(value, text)
    updated = job.of(value, type(value), paths)
    job.require_kept(updated)
    return updated


def names_of(value: Any, name: str = "") -> list[str]:
    """The dotted names of all fields below `value`."""
    members = _members(value, Any)
    if not members:
        return [name]
    return [leaf for key, (inner, _) in members.items() for leaf in names_of(inner, _join(name, key))]


# Reading ------------------------------------------------------------------------------------------------------------


def _dataclass(cls: Any, data: Any, name: str, text: bool = False) -> Any:
    if isinstance(data, cls):
        return data
    if text:
        raise ValueError(f"{name} is a {cls.__name__}, which cannot be set as a whole; name one of its fields.")
    if not isinstance(data, Mapping):
        raise _wrong(name, data, f"an object with the fields of {cls.__name__}")
    known, hints = _fields(cls), _hints(cls)
    for key in (k for k in data if k not in known and k not in getattr(cls, "json_properties", ())):
        raise ValueError(
            f"{cls.__name__} has no field {_join(name, key)!r}.{did_you_mean(key, known)} Known: {', '.join(known)}."
        )
    values = {key: decode(hints[key], data[key], _join(name, key)) for key in known if key in data}
    for key, field in known.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_join(name, key)} is missing; every {cls.__name__} has it.")
    return _built(lambda: cls(**values), name)


def _built(build: Callable[[], Any], name: str) -> Any:
    """What `build` returns; a contradiction between fields is reported with the name of their owner."""
    try:
        return build()
    except ValueError as error:
        raise ValueError(f"{name}: {error}" if name else str(error)) from error


def _union(members: tuple[Any, ...], data: Any, name: str, text: bool) -> Any:
    if data is None or (text and data.lower() in ("none", "null")):
        if type(None) in members:
            return None
        raise _wrong(name, data, " or ".join(_title(member) for member in members))
    variants = _variants(members)
    if len(variants) > 1 and isinstance(data, Mapping):
        if data.get(TYPE) not in variants:
            raise _wrong(_join(name, TYPE), data.get(TYPE), f"one of {', '.join(variants)}")
        return _dataclass(variants[data[TYPE]], {key: data[key] for key in data if key != TYPE}, name)
    others = [member for member in members if member is not type(None)]
    for member in others[:-1]:
        try:
            return decode(member, data, name, text=text)
        except ValueError:  # the last member's error is the one that is reported
            continue
    return decode(others[-1], data, name, text=text)


def _choice(choices: tuple[Any, ...], data: Any, name: str, text: bool) -> Any:
    for choice in choices:
        if (data == choice and type(data) is type(choice)) or (text and data == str(choice)):
            return choice
    known = [str(choice) for choice in choices]
    raise ValueError(f"{name} is {data!r}; choose one of {', '.join(known)}.{did_you_mean(str(data), known)}")


def _sequence(kind: Any, members: tuple[Any, ...], data: Any, name: str, text: bool) -> Any:
    """[1, 2], in a text also 1,2."""
    if text:
        listed = _json(data)
        plain = [item.strip() for item in data.split(",") if item.strip()]
        data = [str(item) for item in listed] if isinstance(listed, list) else plain
    if not isinstance(data, list | tuple):
        raise _wrong(name, data, "a list")
    fixed = kind is tuple and members and members[-1] is not Ellipsis
    if fixed and len(data) != len(members):
        raise _wrong(name, data, f"{len(members)} values")
    hints = members if fixed else (members[:1] or (Any,)) * len(data)
    return kind(decode(h, item, _join(name, i), text=text) for i, (h, item) in enumerate(zip(hints, data, strict=True)))


def _mapping(hint: Any, data: Any, name: str, text: bool) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise _wrong(name, data, f"a JSON object, or name one key: {name}.KEY VALUE" if text else "an object")
    return {key: decode(_member(hint), value, _join(name, key)) for key, value in data.items()}


def _scalar(kind: Any, data: Any, name: str, text: bool) -> Any:
    if kind not in WANTED:
        raise ValueError(f"{name} is a {_title(kind)}, which no text or JSON stands for; name a field of it.")
    try:
        value = _from_text(data, kind) if text else data.item() if hasattr(data, "item") else data
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is Path and isinstance(value, str):
            value = Path(value)
    except (KeyError, ValueError, OverflowError):
        raise _wrong(name, data, WANTED[kind]) from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(name, data, WANTED[kind])
    return value


def _from_text(text: str, kind: Any) -> Any:
    if kind is bool:
        return TRUTH[text.lower()]
    if kind is int and "e" in text.lower():
        number = float(text)
        if number != int(number):
            raise ValueError
        return int(number)
    return kind(text)


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, TypeError):
        return text


# Setting by name ----------------------------------------------------------------------------------------------------


class _Update:
    """One call of `update`: the value as it was, for the names in errors, and what was set under which name."""

    def __init__(self, root: Any, text: bool) -> None:
        self.root, self.text = root, text
        self.prefix = "--" if text else ""
        self.given: dict[tuple[str, ...], Any] = {}

    def of(self, value: Any, hint: Any, changes: Mapping[tuple[str, ...], Any], holder: tuple[str, ...] = ()) -> Any:
        """`value`, which is called `holder`, with the changes {path below it: new value}."""
        members = _members(value, hint)
        if members is None:
            raise ValueError(f"{self.prefix}{'.'.join(holder)}: a {type(value).__name__} has no fields.")
        groups: dict[str, dict[tuple[str, ...], Any]] = {}
        for path, new in changes.items():
            # A dictionary takes new keys, unless its values have fields of their own.
            free = isinstance(value, Mapping) and len(path) == 1 and not dataclasses.is_dataclass(_member(hint))
            key = path[0] if free else self._spelled(path, members, holder)
            groups.setdefault(key, {})[path[1:]] = new
        fresh = {}
        for key, inner in groups.items():
            name = (*holder, key)
            old, declared = members.get(key, (None, _member(hint)))
            if () in inner:
                full = self.prefix + ".".join(name)
                old = self.given[name] = decode(declared, inner.pop(()), full, text=self.text, now=old)
            fresh[key] = self.of(old, declared, inner, name) if inner else old
        return _replaced(value, fresh, self.prefix + ".".join(holder) if holder else "")

    def require_kept(self, updated: Any) -> None:
        """ValueError where a class set a field otherwise than it was told, because it follows from others."""
        for path, new in self.given.items():
            value = updated
            for key in path:  # a member that was given another name is found under that, and is not looked for
                value, _ = (_members(value, Any) or {}).get(key, (new, Any))
            if value != new and not _is_dataclass(new):
                raise ValueError(
                    f"{self.prefix}{'.'.join(path)} follows from other fields: it is {value!r}, not {new!r}; leave it "
                    f"out."
                )

    def _spelled(self, path: tuple[str, ...], members: Mapping[str, Any], holder: tuple[str, ...]) -> str:
        """The first name of `path` as it is spelled in `members`."""
        for candidate in (path[0], path[0].replace("-", "_")):
            if candidate in members:
                return candidate
        full = ".".join((*holder, *path)).replace("-", "_")
        near = did_you_mean(full, names_of(self.root)) or f" Known here: {', '.join(members) or 'nothing'}."
        raise ValueError(f"{self.prefix}{full}: there is no {path[0]!r} here.{near}")


def _replaced(value: Any, fresh: Mapping[str, Any], name: str) -> Any:
    """A copy of a dataclass, dictionary or tuple of dataclasses with some members replaced."""
    if isinstance(value, Mapping):
        return {**value, **fresh}
    if isinstance(value, tuple):
        titles = _titles(value)
        by_index = {int(key) if key.isdigit() else titles.index(key): new for key, new in fresh.items()}
        return tuple(by_index.get(index, old) for index, old in enumerate(value))
    return _built(lambda: dataclasses.replace(value, **fresh), name)


def _members(value: Any, hint: Any) -> dict[str, tuple[Any, Any]] | None:
    """{name: (value, declared type)} of what can be named below `value`; None where nothing can."""
    if _is_dataclass(value):
        hints = _hints(type(value))
        return {name: (getattr(value, name), hints[name]) for name in _fields(type(value))}
    if isinstance(value, Mapping):
        return {key: (inner, _member(hint)) for key, inner in value.items()}
    if isinstance(value, tuple) and any(_is_dataclass(inner) for inner in value):
        named = {title: (inner, Any) for title, inner in zip(_titles(value), value, strict=True)}
        return named | {str(index): (inner, Any) for index, inner in enumerate(value)}
    return None


def _titles(value: tuple[Any, ...]) -> list[str]:
    return [str(getattr(inner, "name", index)) for index, inner in enumerate(value)]


# Types --------------------------------------------------------------------------------------------------------------


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


@cache
def _fields(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _variants(members: tuple[Any, ...]) -> dict[str, Any]:
    """The dataclasses among a union's members, by name."""
    return {_title(member): member for member in members if dataclasses.is_dataclass(member)}


def _member(hint: Any) -> Any:
    """The declared type of a dictionary's values, or of a sequence's members."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next((member for member in get_args(hint) if get_args(member)), Any)
    members = get_args(hint)
    if not members:
        return Any
    return members[1] if issubclass(get_origin(hint) or object, Mapping) else members[0]


def _title(kind: Any) -> str:
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _wrong(name: str, data: Any, wanted: str) -> ValueError:
    return ValueError(f"{name or 'The value'} is {data!r}; expected {wanted}.")
