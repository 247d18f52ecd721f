import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from visuomotor.text.qwen import QWEN3, WORDS, added_tokens, read_qwen, write_qwen
from visuomotor.text.tokenizer import TextTokenizer

TEXTS = [
    "put the red block into the left bowl", "It's 3.14, isn't it?\n\n  two lines \t tab", "USER: ",
    "Grüße, 机器人 🤖", "  x\n",
    "<|im_end|> in plain text",
]  # fmt: skip


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3-like tokenizer in published form: vocab.json, merges.txt, tokenizer_config.json."""
    from tokenizers import Regex

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXTS * 3, trainer)
    inner.add_special_tokens(list(QWEN3))
    path = tmp_path_factory.mktemp("qwen")
    write_qwen(inner, path)
    return path


def test_the_added_tokens_have_the_published_ids() -> None:
    ids = {token: 151643 + i for i, token in enumerate(added_tokens())}
    assert len(ids) == 1058
    expected = {
        "<|endoftext|>": 151643, "<|im_end|>": 151645, "<im_patch>": 151679, "<im_end>": 151681, "<action_0>": 151698,
        "<action_254>": 151952, "<robot_ur5>": 151953, "<robot_dlr_edan>": 151970, "<eef_control>": 151971,
        "<joint_control>": 151972, "<action>0</action>": 151973, "<action>727</action>": 152700,
    }  # fmt: skip
    assert {token: ids[token] for token in expected} == expected


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_encodes_like_transformers(qwen_folder: Path, text: str) -> None:
    oracle = Qwen2Tokenizer.from_pretrained(str(qwen_folder))
    ours = read_qwen(qwen_folder, add_dm0_tokens=False)
    assert ours.encode(text, add_special_tokens=False).ids == oracle.encode(text, add_special_tokens=False)


def test_dm0_tokens_are_appended_and_typed_ones_stay_text(qwen_folder: Path) -> None:
    tokenizer = TextTokenizer.from_qwen(qwen_folder)
    before = read_qwen(qwen_folder, add_dm0_tokens=False).get_vocab_size()
    assert tokenizer.vocab_size == before + 1058 - len(QWEN3)
    assert tokenizer.action_start == before + (151698 - 151643) - len(QWEN3)
    assert tokenizer.eos_id not in tokenizer.encode(TEXTS[-1])
    assert tokenizer.decode(tokenizer.encode(TEXTS[-1])) == TEXTS[-1]
    assert len(tokenizer.encode("\n")) == 1


def test_survives_a_checkpoint(qwen_folder: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_qwen(qwen_folder)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert (again.pad_id, again.eos_id, again.action_start, again.vocab_size) == (
        tokenizer.pad_id, tokenizer.eos_id, tokenizer.action_start, tokenizer.vocab_size,
    )  # fmt: skip
    assert again.encode(TEXTS[1]).tolist() == tokenizer.encode(TEXTS[1]).tolist()


def test_bad_folders_are_named(qwen_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vocab.json and merges.txt missing"):
        read_qwen(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((qwen_folder / name).read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 7}))
    with pytest.raises(ValueError, match="should be 7"):
        read_qwen(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<|endof')
    with pytest.raises(ValueError, match="truncated"):
        read_qwen(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    (tmp_path / "vocab.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="damaged"):
        read_qwen(tmp_path)
