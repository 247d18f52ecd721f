"""Published DexVLA checkpoints as `visuomotor convert` reads them."""

from pathlib import Path
from typing import Literal

from visuomotor.contract import Embodiment
from visuomotor.models.dexvla.convert import (
    MAX_NEW_TOKENS,
    is_published,
    processor_of,
    read_published,
    read_statistics,
)
from visuomotor.models.spec import CheckpointAdapter, PublishedPolicy

__all__ = ["ADAPTER"]


def read(
    path: Path,
    robot: Embodiment,
    *,
    precision: Literal["file", "float32", "reference"] = "file",
    base: str | None = None,
) -> PublishedPolicy:
    statistics = read_statistics(path)
    published = read_published(path, base=base, precision=precision)
    return PublishedPolicy(
        model=published.model,
        processor=processor_of(published, robot, statistics),
        config=published.config,
        summary=f"{published.report.summary()}, {published.adapters} adapters merged",
        settings={"think": ("subtask",), "max_new_tokens": MAX_NEW_TOKENS},
    )


ADAPTER = CheckpointAdapter(
    contents="config.json, safetensors, dataset_stats.json, tokenizer files; may be LoRA adapters",
    recognise=is_published,
    read=read,
)
