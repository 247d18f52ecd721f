"""Ask a checkpoint questions on held-out images and score what it answers."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.codec import encode
from visuomotor.data.conversations import Conversation, Conversations
from visuomotor.data.dialogue import conversation_sample
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.images import fit
from visuomotor.data.loader import held_out
from visuomotor.data.scene_conversations import scene_conversations
from visuomotor.data.sources import open_source
from visuomotor.evaluation.answers import Answer, KindScore, score
from visuomotor.evaluation.provenance import checkpoint_hash, code_version
from visuomotor.locks import FolderLock
from visuomotor.policy import Policy, load_policy
from visuomotor.text.templates import Wording

__all__ = ["AnswerPlan", "evaluate_answers"]

RESULTS_FILE = "answers.json"


@dataclass(frozen=True, kw_only=True)
class AnswerPlan:
    """What is asked.

    data        an annotated LeRobot folder, whose boxes give the questions, or a conversation file (.json, .jsonl)
    images      the folder of a conversation file's images; None: its own
    validation  share of episodes (of images) that training held out, as in Mixture; 1: ask about all
    questions   at most, spread evenly over what is held out; `per_image` of them on each annotated image
    kinds       {kind: weight} of generated questions; empty: all alike
    wording     of generated questions: canonical, or templates that training uses or holds out
    begin       {kind: words} with which its answers have to begin, e.g. {"box": "Box:"} for a policy that was trained
                to think boxes and never to answer questions
    """

    data: str
    images: str | None = None
    validation: float = 0.05
    questions: int = 1000
    per_image: int = 8
    kinds: Mapping[str, float] = field(default_factory=dict)
    wording: Wording = "canonical"
    begin: Mapping[str, str] = field(default_factory=dict)
    seed: int = 100_000
    batch_size: int = 32
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.validation <= 1:
            raise ValueError(
                f"validation is {self.validation}; give the share of images to ask about, above 0, at most 1."
            )
        for name in ("questions", "per_image", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def evaluate_answers(
    checkpoint: Path,
    plan: AnswerPlan,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    device: str = "cpu",
    break_lock: bool = False,
) -> list[KindScore]:
    """Answers greedily, scores by kind, and writes answers.json into `out`.

    Raises:
        FileExistsError: `out` holds results and `overwrite` is false. ValueError: nothing is held out, a question of
        a conversation file cannot be read, or the data has no boxes. FolderInUse: another process or thread writes
        into `out`; see `FolderLock`, also for `break_lock`.
    """
    path = out / RESULTS_FILE
    with FolderLock(out, break_lock=break_lock):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists already; choose another --out or pass --overwrite.")
        policy = load_policy(checkpoint, device=device)
        data = _open(plan)
        answers = list(_answered(policy, plan, data, progress))
        scores = score(answers)
        record = {
            "checkpoint": str(checkpoint),
            "checkpoint_hash": checkpoint_hash(checkpoint),
            "code_version": code_version(),
            "data_hash": data.hash(),
            "plan": encode(plan),
            "scores": [s.to_json() for s in scores],
            "answers": encode(answers),
        }
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(path)
    return scores


def _open(plan: AnswerPlan) -> EpisodeSource | Conversations:
    talk = Path(plan.data).suffix in (".json", ".jsonl")
    return Conversations(plan.data, plan.images) if talk else open_source(plan.data)


def _answered(
    policy: Policy, plan: AnswerPlan, data: EpisodeSource | Conversations, progress: Callable[[int, int], None] | None
) -> Iterator[Answer]:
    """Questions with equally many images, whose answers begin alike, are answered together."""
    asked = list(islice(_asked(policy, plan, data), plan.questions))
    groups: dict[tuple[int, str], list[Conversation]] = {}
    for conversation in asked:
        key = (len(conversation.images), plan.begin.get(conversation.kind, ""))
        groups.setdefault(key, []).append(conversation)
    done = 0
    for (_, begin), group in groups.items():
        for start in range(0, len(group), plan.batch_size):
            batch = group[start : start + plan.batch_size]
            answers = policy.answer(batch, plan.max_new_tokens, begin=begin)
            for conversation, given in zip(batch, answers, strict=True):
                question, expected = conversation.turns[-1]
                yield Answer(kind=conversation.kind, question=question, expected=expected, given=given)
            done += len(batch)
            if progress is not None:
                progress(done, len(asked))


def _asked(policy: Policy, plan: AnswerPlan, data: EpisodeSource | Conversations) -> Iterator[Conversation]:
    """Every answer of a conversation is a question of its own, with the true answers before it."""
    rows, config = _rows(plan, data), policy.processor.config
    if isinstance(data, Conversations):
        for row in _spread(rows, plan.questions).tolist():
            try:
                whole = _fitted(data.record(row), config.image_size)
                conversation_sample(config, policy.processor.tokenizer, whole)  # refused before any is answered
            except ValueError as error:
                raise ValueError(f"{data.place(row)}: {error}") from error
            for last in range(1, len(whole.turns) + 1):
                yield replace(whole, turns=whole.turns[:last], kind=whole.kind or "conversation")
        return
    config = replace(config, questions_per_image=plan.per_image)
    rows = _spread(rows, -(-plan.questions // plan.per_image))
    yield from scene_conversations(data, rows, config, kinds=plan.kinds or None, wording=plan.wording, seed=plan.seed)


def _fitted(conversation: Conversation, side: int | None) -> Conversation:
    """With images of the model's size: all questions are held in memory."""
    if side is None:
        return conversation
    return replace(conversation, images=tuple(fit(image, side) for image in conversation.images))


def _rows(plan: AnswerPlan, data: Any) -> np.ndarray:
    """Rows of the episodes that training held out, or all."""
    chosen = np.ones(data.num_episodes, bool) if plan.validation == 1 else held_out(data.num_episodes, plan.validation)
    slices = [data.episode_slice(int(e)) for e in np.flatnonzero(chosen)]
    if not slices:
        raise ValueError(f"{plan.data} has a single episode, so nothing is held out; ask about all with validation 1.")
    return np.concatenate([np.arange(s.start, s.stop) for s in slices])


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))]
