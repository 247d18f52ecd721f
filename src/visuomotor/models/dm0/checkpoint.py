"""Published DM0 checkpoints as `visuomotor convert` reads and writes them."""

from pathlib import Path

from visuomotor.contract import Embodiment
from visuomotor.models.dm0.convert import Method, processor_of, read_published, write_published
from visuomotor.models.dm0.tensors import Precision
from visuomotor.models.files import read_json
from visuomotor.models.spec import CheckpointAdapter, PublishedPolicy

__all__ = ["ADAPTER"]


def recognise(path: Path) -> bool:
    config = path / "config.json"
    return config.exists() and "dm0" in str(read_json(config).get("model_type", ""))


def read(
    path: Path,
    robot: Embodiment,
    *,
    precision: Precision = "file",
    normalization: Method | None = None,
    progress: bool | None = None,
) -> PublishedPolicy:
    published = read_published(path, precision=precision, progress=progress)
    return PublishedPolicy(
        model=published.model,
        processor=processor_of(published, robot, normalization),
        config=published.config,
        summary=published.report.summary(),
    )


ADAPTER = CheckpointAdapter(
    contents="config.json, safetensors, norm_stats.json, tokenizer files",
    recognise=recognise,
    read=read,
    write=write_published,
)
