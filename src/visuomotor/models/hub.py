"""Where public weights lie: a folder on disk, or a repository of the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["TOKENIZER_FILES", "find_weights"]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip


def find_weights(source: str, patterns: Sequence[str], *, option: str) -> Path:
    """The folder `source`, or the local copy of that Hub repository's files that match `patterns`.

    `option` is what the user named it with, e.g. "--llm".

    Raises:
        FileNotFoundError: no such folder, and the Hub cannot be asked or has no such repository.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except Exception as error:  # also those of the HTTP library, which differs between versions of huggingface_hub
        why = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"{source} is no folder here, and could not be fetched from the Hugging Face Hub ({why}). Where there is a "
            f"network, run `hf download {source} --local-dir FOLDER`, copy that folder to this machine, and give it as "
            f"{option} FOLDER; it must hold {' or '.join(patterns)}."
        ) from error
