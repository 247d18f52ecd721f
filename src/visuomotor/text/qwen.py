"""The tokenizer of Qwen3 folders and of published DM0 checkpoints, which are Qwen3's with 1058 tokens added.

Read from `tokenizer.json`, or built from `vocab.json` and `merges.txt` as published DM0 folders have them; no remote
code, no download. Source of the added tokens: DM0's vocabulary (README of models/dm0).
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

__all__ = ["CONTROLS", "ROBOTS", "added_tokens", "read_qwen", "write_qwen"]

FIRST_ADDED = 151643  # ids below are Qwen's byte-pair tokens
FIRST_IMAGE, FIRST_ACTION = 151679, 151698
# How Qwen cuts text before byte-pair merging: contractions, words, single digits, punctuation, line ends, spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN3 = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>",
)  # fmt: skip
ROBOTS = (
    "ur5", "franka", "aloha", "r1_lite", "arx5", "umi", "z1", "g1", "realman_756f", "widowx", "kuka", "xarm",
    "google_robot", "stretch", "sawyer", "jaco2", "fanuc_mate", "dlr_edan",
)  # fmt: skip
CONTROLS = ("eef_control", "joint_control")
BINS, PIXELS = 255, 728


def added_tokens() -> list[str]:
    """DM0's 1058 added tokens from id 151643 on; names that are not known publicly are `<|reserved_ID|>`."""
    tokens = list(QWEN3)
    tokens += [f"<|reserved_{i}|>" for i in range(FIRST_ADDED + len(tokens), FIRST_IMAGE)]
    tokens += ["<im_patch>", "<im_start>", "<im_end>"]
    tokens += [f"<|reserved_{i}|>" for i in range(FIRST_IMAGE + 3, FIRST_ACTION)]
    tokens += [f"<action_{i}>" for i in range(BINS)]
    tokens += [f"<robot_{name}>" for name in ROBOTS] + [f"<{name}>" for name in CONTROLS]
    return tokens + [f"<action>{i}</action>" for i in range(PIXELS)]


def read_qwen(folder: Path, *, add_dm0_tokens: bool = True) -> Tokenizer:
    """The folder's tokenizer.

    add_dm0_tokens: where it has no `<action_0>`, DM0's tokens are appended at DM0's ids, so that weights started from
    a public Qwen3 and a published DM0 agree. A folder that holds them, keeps its own names and ids.

    Raises:
        FileNotFoundError: neither tokenizer.json nor vocab.json with merges.txt. ValueError: a file is damaged, or the
        byte-pair vocabulary is not Qwen's in size, so that DM0's ids would not fit.
    """
    inner = _inner(folder)
    if add_dm0_tokens and inner.token_to_id("<action_0>") is None:
        _append(inner, folder)
    return inner


def write_qwen(inner: Tokenizer, folder: Path, *, max_length: int = 200) -> None:
    """Write vocab.json, merges.txt and the JSON files beside them, as published folders have them.

    max_length: to which published servers pad and cut every text.
    """
    data = json.loads(inner.to_str())
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in data["model"]["merges"]]
    added = {token["content"]: token["id"] for token in data["added_tokens"]}
    words = {word: i for word, i in data["model"]["vocab"].items() if word not in added}
    (folder / "vocab.json").write_text(json.dumps(words, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2, ensure_ascii=False) + "\n")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "added_tokens_decoder": {
            str(i): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            }
            for token, i in added.items()
        },
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def _inner(folder: Path) -> Tokenizer:
    try:
        if (folder / "tokenizer.json").exists():
            inner = Tokenizer.from_str((folder / "tokenizer.json").read_text())
        else:
            inner = _from_vocabulary(folder)
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # the library raises bare Exception on malformed files
        raise ValueError(f"The tokenizer in {folder} is damaged ({error}). Copy its files again.") from error
    inner.no_padding()
    inner.no_truncation()
    return inner


def _from_vocabulary(folder: Path) -> Tokenizer:
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no tokenizer: {' and '.join(missing)} missing, and no tokenizer.json either. Copy the "
            f"tokenizer files of the checkpoint into it."
        )
    bpe = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    inner = Tokenizer(bpe)
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    inner.decoder = decoders.ByteLevel()
    added = _listed(folder)
    in_order = sorted(added, key=added.__getitem__)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in in_order])
    wrong = [token for token, i in added.items() if inner.token_to_id(token) != i]
    if wrong:
        raise ValueError(
            f"The added tokens of {folder} do not follow its vocabulary: {wrong[0]!r} should be {added[wrong[0]]} but "
            f"is {inner.token_to_id(wrong[0])}. vocab.json or added_tokens.json is truncated; copy them again."
        )
    return inner


def _listed(folder: Path) -> dict[str, int]:
    """{added token: id} of added_tokens.json and of tokenizer_config.json."""
    added: dict[str, int] = {}
    for name in ("tokenizer_config.json", "added_tokens.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            data = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged or truncated: {error}. Copy it again.") from error
        if name == "added_tokens.json":
            added |= {token: int(i) for token, i in data.items()}
        else:
            added |= {entry["content"]: int(i) for i, entry in data.get("added_tokens_decoder", {}).items()}
    return added


def _append(inner: Tokenizer, folder: Path) -> None:
    """DM0's tokens behind the vocabulary; those that Qwen3 has already keep their ids."""
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added_tokens()])
    if inner.get_vocab_size(with_added_tokens=False) == FIRST_ADDED and inner.token_to_id("<action_0>") != FIRST_ACTION:
        raise ValueError(
            f"The tokenizer in {folder} has other added tokens than Qwen3, so that <action_0> would be "
            f"{inner.token_to_id('<action_0>')} instead of {FIRST_ACTION}; take the files of a plain Qwen3."
        )
