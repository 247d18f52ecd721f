"""The tokenizer of LLaMA-2 folders: from `tokenizer.json`, or from SentencePiece's `tokenizer.model`.

The latter is read without SentencePiece: byte-pair merging by the score of the piece that a pair makes, bytes for what
the vocabulary lacks, and a space as the piece "▁", one of which is put in front of a text.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

__all__ = ["is_llama", "read_llama"]

JSON, MODEL = "tokenizer.json", "tokenizer.model"
PAD = "<PAD>"  # which published vision-language models add behind LLaMA-2's vocabulary
SPACE, NEWLINE = "▁", "<0x0A>"
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # SentencePiece's types of pieces


def is_llama(folder: Path) -> bool:
    """Whether the folder's tokenizer is LLaMA's."""
    if (folder / MODEL).exists():
        return True
    return (folder / JSON).exists() and f'"{NEWLINE}"' in (folder / JSON).read_text()


def read_llama(folder: Path) -> Tokenizer:
    """The folder's tokenizer, with a padding token behind its vocabulary where it has none.

    Raises:
        FileNotFoundError: neither file is there. ValueError: a file is damaged, or of another kind of tokenizer.
    """
    file = next((folder / name for name in (JSON, MODEL) if (folder / name).exists()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has neither {JSON} nor {MODEL}; copy LLaMA-2's tokenizer into it.")
    try:
        inner = Tokenizer.from_str(file.read_text()) if file.name == JSON else _from_pieces(file.read_bytes())
    except Exception as error:  # the tokenizers library raises bare Exception on malformed files
        raise ValueError(f"{file} is damaged, or not LLaMA-2's ({error}); copy it again.") from error
    if inner.token_to_id(NEWLINE) is None:
        raise ValueError(f"{file} has no piece {NEWLINE}, so it is not LLaMA's tokenizer; give that folder.")
    inner.no_padding()
    inner.no_truncation()
    if inner.token_to_id(PAD) is None:
        inner.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
    return inner


def _from_pieces(data: bytes) -> Tokenizer:
    pieces = [_piece(value) for field, value in _fields(data) if field == 1 and isinstance(value, bytes)]
    vocabulary = {text: i for i, (text, _, _) in enumerate(pieces)}
    unknown = next(text for text, _, kind in pieces if kind == UNKNOWN)
    scores = {text: score for text, score, kind in pieces if kind == NORMAL}
    pairs = [
        (-score, text[:cut], text[cut:])
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    merges = [(left, right) for _, left, right in sorted(pairs, key=lambda pair: pair[0])]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    inner.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [text for text, _, kind in pieces if kind in (UNKNOWN, CONTROL)]
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return inner


def _piece(data: bytes) -> tuple[str, float, int]:
    """(text, score, type) of SentencePiece's message; normal pieces leave their type out."""
    fields = dict(_fields(data))
    text, score, kind = fields[1], fields.get(2, 0.0), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, float) or not isinstance(kind, int):
        raise ValueError("its pieces are not those of SentencePiece")
    return text.decode(), score, kind


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of the fields of a protocol-buffers message."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        field, wire = divmod(varint(), 8)
        if wire == 0:
            yield field, varint()
            continue
        size = varint() if wire == 2 else {1: 8, 5: 4}[wire]
        value = data[place : place + size]
        if len(value) < size:
            raise ValueError("it ends within a field")
        place += size
        yield field, value if wire == 2 else struct.unpack("<f" if wire == 5 else "<d", value)[0]
