import pytest

from visuomotor.text.phrases import Phrase, parse, parse_rules, tidy


def sentences(phrase: Phrase) -> list[str]:
    return [phrase.sentence(i) for i in range(phrase.count)]


def test_alternatives_options_rules_and_slots() -> None:
    rules = parse_rules("# a comment\nthing = cup\nthing = (red|blue) {noun}\n")
    phrase = parse("[please ](take|lift) the <thing>", rules)
    assert phrase.count == 2 * 2 * 3
    made = sentences(phrase)
    assert len(set(made)) == phrase.count
    assert made[:4] == ["take the cup", "take the red {noun}", "take the blue {noun}", "lift the cup"]
    assert made[-1] == "please lift the blue {noun}"
    with pytest.raises(IndexError, match="12 sentences"):
        phrase.sentence(12)


def test_brackets_nest_and_alternatives_may_stand_alone() -> None:
    assert sentences(parse("a|b[c(d|e)]", {})) == ["a", "b", "bcd", "bce"]
    assert set(parse("a(b|c [d])", {}).words()) == {"a", "b", "c ", "", "d"}


@pytest.mark.parametrize(("text", "message"), [("(a|b", r"lacks a '\)'"), ("a]", "nothing opens"), ("<no>", "<no>")])
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text, {})


def test_tidy_removes_what_options_leave() -> None:
    assert tidy(" the  task : go  ? ") == "the task: go?"
