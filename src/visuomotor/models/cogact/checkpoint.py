"""Published CogACT runs as `visuomotor convert` reads them."""

from pathlib import Path
from typing import Literal

from visuomotor.contract import Embodiment
from visuomotor.models.cogact.run_folder import STATISTICS, processor_of, read_run
from visuomotor.models.hub import TOKENIZER_FILES, find_weights
from visuomotor.models.spec import CheckpointAdapter, PublishedPolicy
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["ADAPTER"]


def recognise(path: Path) -> bool:
    return path.is_file() or (path / STATISTICS).exists()


def read(
    path: Path,
    robot: Embodiment,
    *,
    precision: Literal["file", "float32", "reference"] = "file",
    tokenizer: str | None = None,
    statistics: str | None = None,
) -> PublishedPolicy:
    if precision == "reference":
        raise ValueError("precision 'reference' is DM0's; a CogACT keeps its file's types, or takes float32.")
    if tokenizer is None:
        raise ValueError("a published CogACT has no tokenizer: --tokenizer FOLDER with LLaMA-2's tokenizer.")
    words = TextTokenizer.from_llama(find_weights(tokenizer, TOKENIZER_FILES, option="--tokenizer"))
    published = read_run(path)
    return PublishedPolicy(
        model=published.model.float() if precision == "float32" else published.model,
        processor=processor_of(published, robot, words, statistics),
        config=dict(published.config),
        summary=published.report.summary(),
    )


ADAPTER = CheckpointAdapter(
    contents="config.json, dataset_statistics.json, checkpoints/*.pt, or one of its .pt files",
    recognise=recognise,
    read=read,
)
