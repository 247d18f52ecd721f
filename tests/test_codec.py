"""Dataclasses as JSON and back, and their fields by dotted names."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from visuomotor.codec import decode, encode, update


@dataclass(frozen=True, kw_only=True)
class Tower:
    width: int = 8
    heads: int = 2
    gain: float | None = None
    kind: Literal["plain", "gated"] = "plain"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"Width {self.width} does not split into {self.heads} heads.")


@dataclass(frozen=True, kw_only=True)
class Round:
    radius: float


@dataclass(frozen=True, kw_only=True)
class Square:
    side: float
    derived: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "derived", int(self.side) * 2)


@dataclass(frozen=True, kw_only=True)
class Count:
    yes: int
    n: int
    json_properties: ClassVar = ("rate",)

    @property
    def rate(self) -> float:
        return self.yes / self.n


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    tower: Tower = Tower()
    towers: tuple[Tower, ...] = ()
    by_name: dict[str, Tower] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "a")
    shape: Round | Square = Round(radius=1.0)
    shapes: tuple[Round | Square, ...] = ()
    counts: list[Count] = field(default_factory=list)
    path: Path | None = None
    free: Any = None
    size: bool | list[int] = False
    options: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)


FULL = Whole(
    name="x",
    tower=Tower(width=6, heads=3, gain=0.5, kind="gated"),
    towers=(Tower(), Tower(width=4)),
    by_name={"left": Tower(width=2)},
    pair=(3, "b"),
    shape=Square(side=2.0),
    shapes=(Round(radius=2.0), Square(side=3.0)),
    counts=[Count(yes=1, n=4)],
    path=Path("a/b"),
    free={"deep": [1, None]},
    size=[1, 2],
    options={"n": 3},
    rates={"llm": 1e-4},
)


@pytest.mark.parametrize("value", [FULL, Whole(name="y"), FULL.tower])
def test_what_is_written_reads_back(value: Any) -> None:
    data = json.loads(json.dumps(encode(value)))
    assert decode(type(value), data) == value
    assert encode(decode(type(value), data)) == data


def test_the_written_form_is_plain_json() -> None:
    data = encode(FULL)
    assert data["shape"] == {"type": "Square", "side": 2.0, "derived": 4}, "a union of dataclasses says which one"
    assert [shape["type"] for shape in data["shapes"]] == ["Round", "Square"]
    assert data["counts"] == [{"yes": 1, "n": 4, "rate": 0.25}], "properties are written for readers of the file"
    assert data["path"] == "a/b"
    assert encode({"a": np.float32(0.5), "b": np.arange(2)}) == {"a": 0.5, "b": [0, 1]}
    assert encode((1, 2)) == [1, 2]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tower": {"widht": 4}}, "Tower has no field 'config.tower.widht'. Did you mean 'width'?"),
        ({"tower": {"width": "8"}}, "config.tower.width is '8'; expected a whole number"),
        ({"tower": {"width": True}}, "config.tower.width is True; expected a whole number"),
        ({"tower": {"width": 8.0}}, "config.tower.width is 8.0; expected a whole number"),
        ({"tower": {"gain": "big"}}, "config.tower.gain is 'big'; expected a number"),
        (
            {"tower": {"kind": "gatde"}},
            "config.tower.kind is 'gatde'; choose one of plain, gated. Did you mean 'gated'?",
        ),
        ({"tower": {"width": 7}}, "config.tower: Width 7 does not split into 2 heads"),
        ({"tower": 3}, "config.tower is 3; expected an object with the fields of Tower"),
        ({"tower": "big"}, "config.tower is 'big'; expected an object with the fields of Tower"),
        ({"towers": {"width": 4}}, "config.towers is {'width': 4}; expected a list"),
        ({"towers": [{}, {"heads": None}]}, "config.towers.1.heads is None; expected a whole number"),
        ({"by_name": {"left": {"heads": "2"}}}, "config.by_name.left.heads is '2'"),
        ({"pair": [1]}, "config.pair is [1]; expected 2 values"),
        ({"shape": {"radius": 1}}, "config.shape.type is None; expected one of Round, Square"),
        ({"shape": {"type": "Square"}}, "config.shape.side is missing; every Square has it"),
        ({"name": 3}, "config.name is 3; expected text"),
        ({"path": 3}, "config.path is 3; expected a path"),
        ({"size": "big"}, "config.size is 'big'; expected a list"),
    ],
)
def test_errors_name_the_field(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        decode(Whole, {"name": "x", **change}, "config")


def test_a_type_is_a_field_like_others_where_there_is_no_choice() -> None:
    with pytest.raises(ValueError, match=r"Tower has no field 'config\.type'"):
        decode(Tower, {"type": "Tower"}, "config")
    assert decode(Whole, {"name": "x", "shape": {"type": "Round", "radius": 2}}).shape == Round(radius=2.0)


def test_numbers_of_numpy_are_numbers() -> None:
    assert update(Tower(), {"width": np.int64(4), "gain": np.float32(0.5)}) == Tower(width=4, gain=0.5)


def test_missing_fields_are_named_and_old_documents_take_defaults() -> None:
    with pytest.raises(ValueError, match="name is missing; every Whole has it"):
        decode(Whole, {})
    assert decode(Whole, {"name": "x"}) == Whole(name="x")


def test_numbers_and_lists_take_the_declared_type() -> None:
    whole = decode(Whole, {"name": "x", "tower": {"gain": 1}, "rates": {"llm": 1}, "pair": [3, "b"]})
    assert (type(whole.tower.gain), type(whole.rates["llm"]), whole.pair) == (float, float, (3, "b"))


# Fields by name -----------------------------------------------------------------------------------------------------


def test_values_by_dotted_names() -> None:
    changed = update(
        FULL,
        {
            "tower.width": 9,
            "towers.1.heads": 4,
            "by-name.left.width": 4,
            "shape.side": 5,
            "options.new": [1],
            "rates.vision": 1,
            "free.deep": None,
        },
    )
    assert (changed.tower.width, changed.towers[1].heads, changed.by_name["left"].width) == (9, 4, 4)
    assert changed.shape == Square(side=5.0)
    assert (changed.options, changed.rates) == ({"n": 3, "new": [1]}, {"llm": 1e-4, "vision": 1.0})
    assert changed.free == {"deep": None}
    assert FULL.tower.width == 6


def test_values_are_checked_together() -> None:
    assert update(FULL, {"tower.width": 10, "tower.heads": 5}).tower == replace(FULL.tower, width=10, heads=5)
    with pytest.raises(ValueError, match=r"^tower: Width 10 does not split into 3 heads"):
        update(FULL, {"tower.width": 10})


def test_a_whole_part_is_replaced_by_one_of_its_type() -> None:
    assert update(FULL, {"shape": Round(radius=3.0)}).shape == Round(radius=3.0)
    with pytest.raises(ValueError, match="tower is Round"):
        update(FULL, {"tower": Round(radius=3.0)})


@dataclass(frozen=True, kw_only=True)
class Pair:
    first: Tower = Tower()
    second: Tower = Tower()

    def __post_init__(self) -> None:
        object.__setattr__(self, "second", replace(self.second, width=self.first.width))


def test_a_renamed_member_is_found_under_its_new_name() -> None:
    named = (Whole(name="a"), Whole(name="b"))
    changed = update(Whole(name="x", free=named), {"free.a.name": "c", "free.1.rates.llm": 2})
    assert [(member.name, member.rates) for member in changed.free] == [("c", {}), ("b", {"llm": 2.0})]


def test_what_an_owner_decides_cannot_be_set_below_it() -> None:
    assert update(Pair(), {"first.width": 4}).second.width == 4
    assert update(Pair(), {"second": Tower(width=6)}).second.width == 8
    with pytest.raises(ValueError, match=r"second\.width follows from other fields: it is 8, not 4"):
        update(Pair(), {"second.width": 4})


def test_a_part_and_its_fields_may_be_set_together() -> None:
    changed = update(FULL, {"shape.radius": 4, "shape": Round(radius=3.0)})
    assert changed.shape == Round(radius=4.0)


def test_what_follows_from_other_fields_cannot_be_set() -> None:
    assert update(FULL, {"shape.derived": 4}) == FULL
    with pytest.raises(ValueError, match=r"shape\.derived follows from other fields: it is 4, not 9"):
        update(FULL, {"shape.derived": 9})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("tower.widht", "4", "--tower.widht: there is no 'widht' here. Did you mean 'tower.width'?"),
        ("twoer.width", "4", "Did you mean 'tower.width'?"),
        ("width", "4", "Did you mean 'tower.width'?"),
        ("by_name.lefft.width", "4", "Did you mean 'by_name.left.width'?"),
        ("by_name.lefft", "4", "Did you mean 'by_name.left"),
        ("towers.2.width", "4", "Did you mean 'towers."),
        ("zzz.qqq", "4", "Known here: name, tower"),
        ("tower.width.more", "4", "--tower.width: a int has no fields"),
        ("tower", "4", "--tower is a Tower, which cannot be set as a whole; name one of its fields"),
        ("shape", "4", "name one of its fields"),
        ("tower.width", "many", "--tower.width is 'many'; expected a whole number"),
        ("tower.kind", "gatde", "Did you mean 'gated'?"),
    ],
)
def test_mistakes_on_a_command_line(name: str, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        update(FULL, {name: text}, text=True)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("none", float | None, None),
        ("2", float | None, 2.0),
        ("none", str, "none"),
        ("b", Literal["a", "b"], "b"),
        ("1,2", tuple[int, ...], (1, 2)),
        ("[]", tuple[int, ...], ()),
        ("3,x", tuple[int, str], (3, "x")),
        ('{"a": 1}', dict[str, float], {"a": 1.0}),
        ("[96, 96]", Any, [96, 96]),
        ("plain words", Any, "plain words"),
        ("500_000", int, 500000),
        ("1e4", int, 10000),
        ("yes", bool, True),
        ("true", bool | list[int], True),
        ("[1, 2]", bool | list[int], [1, 2]),
        ("a/b", Path, Path("a/b")),
    ],
)
def test_texts_of_a_command_line(text: str, hint: Any, value: Any) -> None:
    found = decode(hint, text, "--field", text=True)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "sentence"),
    [
        ("2.5", int, "--field is '2.5'; expected a whole number"),
        ("1.5e0", int, "expected a whole number"),
        ("maybe", bool, "expected true or false"),
        ("far", float, "expected a number"),
        ("1,2,3", tuple[int, int], "expected 2 values"),
        ("1,x", tuple[int, ...], "--field.1 is 'x'; expected a whole number"),
        ("3", dict[str, int], "expected a JSON object, or name one key: --field.KEY VALUE"),
    ],
)
def test_texts_of_another_type(text: str, hint: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        decode(hint, text, "--field", text=True)
