from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fakes import CORPUS
from visuomotor.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.train(CORPUS, 700)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_training_is_deterministic_and_order_free() -> None:
    again = TextTokenizer.train(reversed(CORPUS), 700)
    for sentence in CORPUS:
        np.testing.assert_array_equal(again.encode(sentence), TOKENIZER.encode(sentence))


@pytest.mark.parametrize("text", ["a\nb", "\n\n", " \n", "block\n"])
def test_newline_is_always_one_token(text: str) -> None:
    assert (TOKENIZER.encode(text) == TOKENIZER.newline_id).sum() == text.count("\n")


def test_digits_never_merge_even_when_frequent() -> None:
    tokenizer = TextTokenizer.train(["123 123 123 123"] * 10, 700)
    digits = {int(tokenizer.encode(before + d)[0]) for before in ("", " ") for d in "0123456789"}
    assert len(digits) == 20
    assert sum(int(i) in digits for i in tokenizer.encode("box 123 1000")) == 7


def test_two_digits_make_one_token() -> None:
    tokenizer = TextTokenizer.train([*CORPUS, "123 123 123"] * 10, 800, digits=2)
    assert all(len(tokenizer.encode(f"{before}{n}")) == 1 for before in ("", " ") for n in range(100))
    assert [tokenizer.decode([i]) for i in tokenizer.encode("at 123, 7 1000")] == [
        "at",
        " 12",
        "3",
        ",",
        " 7",
        " 10",
        "00",
    ]


def test_words_of_the_corpus_are_short() -> None:
    assert len(TOKENIZER.encode("put the red block into the left bowl")) <= 9


def test_special_tokens_typed_by_a_user_are_text() -> None:
    ids = TOKENIZER.encode("stop <eos> <action_3>")
    assert TOKENIZER.eos_id not in ids
    assert TOKENIZER.action_start + 3 not in ids


def test_pieces_equal_the_whole() -> None:
    pieces = [TOKENIZER.encode("Box:"), TOKENIZER.encode(" red block"), TOKENIZER.numbers[412], TOKENIZER.encode("\n")]
    np.testing.assert_array_equal(np.concatenate(pieces), TOKENIZER.encode("Box: red block 412\n"))


def test_save_and_load(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.vocab_size, loaded.newline_id) == (TOKENIZER.vocab_size, TOKENIZER.newline_id)
    np.testing.assert_array_equal(loaded.encode("open the <eos> drawer\n"), TOKENIZER.encode("open the <eos> drawer\n"))


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    path.write_text(path.read_text()[:500])
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer file"):
        TextTokenizer.load(path)
    with pytest.raises(FileNotFoundError, match="keeps its tokenizer beside"):
        TextTokenizer.load(tmp_path / "none.json")


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="need 513"):
        TextTokenizer.train(CORPUS, 300)
