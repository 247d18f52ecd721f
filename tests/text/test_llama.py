import struct
from itertools import pairwise
from pathlib import Path

import pytest

from visuomotor.text.cogact_prompt import CogACTLayout, prompt, prompt_ids
from visuomotor.text.layout import TextRequest
from visuomotor.text.llama import is_llama, read_llama
from visuomotor.text.tokenizer import TextTokenizer

WORDS = [
    *("▁t", "he", "▁the", "re", "▁pi", "pic", "ick", "▁pick", "up", "▁up", "ca", "can", "▁can", "ck"),
    *sorted(set("▁InWhat:acotshulderbkpicf?Ou")),
]
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{b:02X}>", 0.0, 6) for b in range(256))]
PIECES += [(word, -float(i), 1) for i, word in enumerate(WORDS)]
EMPTY = 259 + WORDS.index("▁")


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def message(*fields: tuple[int, int, bytes]) -> bytes:
    return b"".join(varint(8 * n + wire) + (varint(len(d)) if wire == 2 else b"") + d for n, wire, d in fields)


def write_model(folder: Path) -> Path:
    """SentencePiece's file, which ends with the trainer's settings."""
    folder.mkdir(exist_ok=True)
    pieces = []
    for text, score, kind in PIECES:
        fields = [(1, 2, text.encode()), (2, 5, struct.pack("<f", score))]
        pieces.append((1, 2, message(*fields, *([(3, 0, varint(kind))] if kind != 1 else []))))
    settings = (2, 2, message((3, 0, varint(2)), (10, 5, struct.pack("<f", 0.99))))
    (folder / "tokenizer.model").write_bytes(message(*pieces, settings))
    return folder


def by_definition(text: str) -> list[int]:
    """Merge the neighbours whose piece has the best score, the first of them, until none is left."""
    ids = {piece: i for i, (piece, _, _) in enumerate(PIECES)}
    scores = {piece: score for piece, score, kind in PIECES if kind == 1}
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            break
        place = -max(pairs)[1]
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
    found = []
    for part in parts:
        found += [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "llama")


@pytest.mark.parametrize(
    "text", [prompt("pick up the can"), "pick  up", "the there thethe", "naïve 日本", "", " ", "a\nb", "</s> up"]
)
def test_sentencepiece_files_encode_by_their_scores(folder: Path, text: str) -> None:
    words = TextTokenizer.from_llama(folder)
    assert words.encode(text).tolist() == (by_definition(text) if text else [])
    assert words.decode(words.encode(text)) == text


def test_the_prompt_is_that_of_published_models(folder: Path) -> None:
    words = TextTokenizer.from_llama(folder)
    assert (words.begin_id, words.eos_id, words.newline_id, words.empty_id) == (1, 2, 3 + 10, EMPTY)
    assert words.pad_id == len(PIECES) == words.vocab_size - 1  # behind the vocabulary
    found = CogACTLayout(words).prompt(TextRequest(instruction="Pick up the CAN"))[0].ids.tolist()
    assert found == [1, *by_definition(prompt("pick up the can")), EMPTY, 2]
    published = prompt_ids("Pick up the CAN", lambda text: [1, *by_definition(text)])
    assert found == [*published[:-2], EMPTY, 2]  # LLaMA-2's own vocabulary has the empty piece at 29871


def test_other_words_begin_and_end_with_their_end_of_sequence() -> None:
    words = TextTokenizer.train(["pick up the can"], 600)
    found = CogACTLayout(words).prompt(TextRequest(instruction="Pick up the can"))[0].ids
    assert found[0] == found[-1] == words.eos_id
    assert words.decode(found) == prompt("pick up the can")


def test_the_json_file_says_the_same(folder: Path, tmp_path: Path) -> None:
    TextTokenizer.from_llama(folder).save(tmp_path / "tokenizer.json")
    (other := tmp_path / "json").mkdir()
    (tmp_path / "tokenizer.json").rename(other / "tokenizer.json")
    first, second = TextTokenizer.from_llama(folder), TextTokenizer.load(other / "tokenizer.json")
    assert TextTokenizer.from_llama(other).encode("pick up").tolist() == first.encode("pick up").tolist()
    assert second.encode("pick up").tolist() == first.encode("pick up").tolist()
    assert second.pad_id == first.pad_id
    assert is_llama(folder)
    assert is_llama(other)
    assert not is_llama(tmp_path)


def test_there_are_no_action_tokens(folder: Path) -> None:
    words = TextTokenizer.from_llama(folder)
    assert (words.action_start, words.action_count) == (None, 0)
    with pytest.raises(ValueError, match="no action tokens"):
        words.require_actions()


def test_what_is_no_llama_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        read_llama(tmp_path)
    whole = (folder / "tokenizer.model").read_bytes()
    for broken in (whole[:-3], b""):
        (folder / "tokenizer.model").write_bytes(broken)
        with pytest.raises(ValueError, match="damaged"):
            read_llama(folder)
    (folder / "tokenizer.model").unlink()
    TextTokenizer.train(["pick up the can"], 600).save(folder / "tokenizer.json")
    with pytest.raises(ValueError, match="not LLaMA's tokenizer"):
        read_llama(folder)
