"""Folders of published weights: safetensors, whole or in shards, and the JSON files beside them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

__all__ = ["INDEX", "read_json", "read_safetensors"]

INDEX = "model.safetensors.index.json"


def read_safetensors(folder: Path, pattern: str = "*.safetensors") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) one after the other, so that a large file is never in memory whole.

    pattern: names of the files where there is no index.

    Raises:
        FileNotFoundError: no weights, or a shard that the index names is missing. ValueError: a file is damaged, or
        the index names tensors that its files lack.
    """
    index = folder / INDEX
    named: dict[str, str] = {}
    if index.exists():
        named = read_json(index).get("weight_map") or {}
        if not named:
            raise ValueError(f"{index} has no 'weight_map'; copy it again.")
    files = [folder / name for name in sorted(set(named.values()))] or sorted(folder.glob(pattern))
    absent = [file.name for file in files if not file.exists()] or ([] if files else [pattern])
    if absent:
        raise FileNotFoundError(f"{folder} lacks {', '.join(absent)}; copy the folder again, whole.")
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (the handle is no mapping)
                    yield name, tensors.get_tensor(name)
                    named.pop(name, None)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or truncated ({error}); copy it again.") from error
    if named:
        raise ValueError(f"{index} names {len(named)} tensors that its files lack, the first is {next(iter(named))}.")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; FileNotFoundError and ValueError say what to do."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; copy the folder again, whole.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged or truncated: {error}. Copy it again.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__} where an object belongs; copy it again.")
    return data
