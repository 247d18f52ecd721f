from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from visuomotor.text import scaffold
from visuomotor.text.layout import TextRequest, lay_out
from visuomotor.text.pi0 import Pi0Layout, Pi05Layout, state_bins
from visuomotor.text.tokenizer import TextTokenizer

WORDS = TextTokenizer.train([*scaffold.FIXED_TEXT, *Pi05Layout.fixed_text, "put the red block away"], 700)


def gemma_tokenizer() -> Tokenizer:
    """Single characters and bytes under the ids and rules of PaliGemma's tokenizer.json."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(104)), "\n", "▁"]
    pieces += [chr(i) for i in range(33, 127)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<pad>", "<eos>", "<bos>")])
    return inner


def ids_of(tokenizer: TextTokenizer, kind: type[Pi0Layout], **fields: object) -> list[int]:
    request = TextRequest(**{"instruction": "put_the red\nblock away ", **fields})  # type: ignore[arg-type]
    return scaffold.text_of(lay_out(kind(tokenizer), request))[0].tolist()


def test_bins_of_the_state() -> None:
    edge = np.linspace(-1, 1, 257)
    state = np.array([-1.5, -1.0, edge[1] - 1e-9, edge[1], 0.0, edge[255], 0.9999, 1.0, 7.0])
    assert state_bins(state) == [-1, 0, 0, 1, 128, 255, 255, 255, 255]


@pytest.mark.parametrize("words", [WORDS, TextTokenizer(gemma_tokenizer())], ids=["own", "paligemma"])
def test_published_texts(words: TextTokenizer) -> None:
    task = words.encode_once("put the red block away").tolist()
    assert ids_of(words, Pi0Layout) == [words.begin_id, *task, words.newline_id]
    text = "Task: put the red block away, State: 128 -1 255;\nAction: "
    ids = ids_of(words, Pi05Layout, state=np.array([0.0, -3.0, 3.0]))
    assert ids == [words.begin_id, *words.encode_once(text).tolist()]
    assert words.decode(ids) == text


def test_ids_of_paligemma(tmp_path: Path) -> None:
    gemma_tokenizer().save(str(tmp_path / "tokenizer.json"))
    words = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert (words.pad_id, words.eos_id, words.begin_id, words.newline_id) == (0, 1, 2, 108)
    assert words.action_start is None
    words.save(tmp_path / "again.json")
    assert TextTokenizer.load(tmp_path / "again.json").newline_id == 108
    # What a user types is text: the spelling of a special token is not the token.
    assert 2 not in words.encode("<bos>")


def test_action_stands_only_where_no_line_follows() -> None:
    subtask = {"levels": ("subtask",), "state": np.zeros(1)}
    begun = WORDS.decode(ids_of(WORDS, Pi05Layout, **subtask, next_level="subtask"))
    assert begun == "Task: put the red block away, State: 128;\nSubtask:"
    sample = WORDS.decode(ids_of(WORDS, Pi05Layout, **subtask, contents={"subtask": "reach"}, complete=True))
    assert sample == begun + " reach\n"


def test_a_prompt_with_a_state_needs_one() -> None:
    with pytest.raises(ValueError, match="'pi05' names the robot's state"):
        ids_of(WORDS, Pi05Layout)


def test_texts_with_states_do_not_fill_the_cache() -> None:
    words = TextTokenizer(WORDS.inner)
    ids_of(words, Pi05Layout, state=np.zeros(3))
    assert not words._cache


def test_only_the_first_question_begins_a_text() -> None:
    layout = Pi0Layout(WORDS)
    first = scaffold.text_of(layout.exchange("what", "block"))[0].tolist()
    later = scaffold.text_of(layout.exchange("what", "block", first=False))[0].tolist()
    assert first == [WORDS.begin_id, *later]
