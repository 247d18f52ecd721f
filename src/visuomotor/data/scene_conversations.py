"""Questions on annotated images as conversations: what `visuomotor data conversations` writes and evaluations ask."""

from collections.abc import Iterator, Mapping

import numpy as np

from visuomotor.data.config import ProcessorConfig
from visuomotor.data.conversations import Conversation
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.prepared import object_shares, spread_rows
from visuomotor.data.statistics import describe
from visuomotor.text.scaffold import spoken
from visuomotor.text.scene_questions import KINDS, ask, check_kinds
from visuomotor.text.templates import Wording, question_words

__all__ = ["scene_conversations"]

BLOCK = 64  # rows that are read at once


def scene_conversations(
    dataset: EpisodeSource,
    rows: np.ndarray,
    config: ProcessorConfig,
    *,
    kinds: Mapping[str, float] | None = None,
    wording: Wording = "canonical",
    seed: int = 0,
) -> Iterator[Conversation]:
    """Of each row at most `questions_per_image` conversations, of one turn each, on the stored image of the first view.

    The same row always gives the same ones. `kinds`: {kind: weight}, all alike when None.

    Raises:
        ValueError: the data set has no boxes, or not the camera of the first view.
    """
    check_kinds(kinds := kinds or dict.fromkeys(KINDS, 1.0))
    if not dataset.has("boxes"):
        raise ValueError(f"{describe(dataset)} has no annotation 'boxes', which the questions are made of.")
    cameras = {c.role: c.name for c in dataset.require_embodiment().cameras}
    camera = next((cameras[role] for role in config.image_roles if role in cameras), None)
    if camera is None:
        raise ValueError(f"{describe(dataset)} has the roles {list(cameras)}, none of {list(config.image_roles)}.")
    shares = object_shares(dataset.annotations(spread_rows(dataset.num_frames)) or ())
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        for row, image, annotation in zip(
            block.tolist(), dataset.frames(camera, block), dataset.annotations(block) or (), strict=True
        ):
            rng = np.random.default_rng((seed, row))
            c = config.coordinate
            boxes = {n: (c(b[0]), c(b[1]), c(b[2]), c(b[3])) for n, b in annotation.boxes.get(camera, {}).items()}
            for question in ask(boxes, shares, rng, kinds, config.questions_per_image):
                turn = (spoken(question_words(question, wording, rng)), spoken(question.answer))
                yield Conversation(turns=(turn,), images=(image,), kind=question.kind)
