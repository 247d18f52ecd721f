"""`visuomotor eval-text CHECKPOINT`: ask a checkpoint questions on held-out images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from visuomotor.cli.console import PathOrNone, parse, progress_bar, say, table
from visuomotor.cli.values import newest


@dataclass(frozen=True, kw_only=True)
class Options:
    """Ask a checkpoint questions on held-out images: exact match with 95 % Wilson intervals, overlap of boxes."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's folder, such as runs/train/checkpoints/step-000500, or a training's, whose newest it takes."""
    data: Path
    """An annotated LeRobot folder, or a LLaVA conversation file (.json, .jsonl)."""
    images: PathOrNone = None
    """The folder of a conversation file's images (default: that of the file)."""
    out: Path = Path("runs/answers")
    """Folder for answers.json."""
    validation: float = 0.05
    """Share that training held out, as in the mixture; 1 asks about everything (data that it never saw)."""
    questions: int = 1000
    """Questions at most."""
    per_image: int = 8
    """Questions on each annotated image."""
    kinds: Annotated[dict[str, float], tyro.conf.arg(metavar="KIND WEIGHT")] = field(default_factory=dict)
    """Kinds of generated questions with their weights, e.g. --kinds box 2 count 1 (default: all alike)."""
    wording: Literal["canonical", "train", "heldout"] = "canonical"
    """How generated questions are put: in the canonical words, or by templates that training uses or holds out."""
    begin: Annotated[dict[str, str], tyro.conf.arg(metavar="KIND WORDS")] = field(default_factory=dict)
    """Words with which answers of a kind have to begin, e.g. --begin box Box: (default: none)."""
    seed: int = 100_000
    """Of the generated questions."""
    overwrite: bool = False
    """Replace the answers that lie in --out."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


def run(arguments: list[str]) -> int:
    options = parse("eval-text", Options, arguments)
    from visuomotor.apps.answers import RESULTS_FILE, AnswerPlan, evaluate_answers
    from visuomotor.evaluation.answers import COLUMNS

    plan = AnswerPlan(
        data=str(options.data),
        images=None if options.images is None else str(options.images),
        validation=options.validation,
        questions=options.questions,
        per_image=options.per_image,
        kinds=options.kinds,
        wording=options.wording,
        begin=options.begin,
        seed=options.seed,
    )
    checkpoint = newest(options.checkpoint)
    with progress_bar("asking") as update:
        scores = evaluate_answers(
            checkpoint,
            plan,
            options.out,
            overwrite=options.overwrite,
            break_lock=options.break_lock,
            progress=update,
        )
    table("answers", COLUMNS, [s.row() for s in scores])
    say(f"results: {options.out / RESULTS_FILE}")
    return 0
