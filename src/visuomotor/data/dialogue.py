"""Samples of conversations: images in front of the text, answers are what is learnt, no actions and no robot."""

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.data.augment import Shift, augment
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.conversations import Conversation
from visuomotor.data.images import fit
from visuomotor.data.sample import Sample
from visuomotor.text import scaffold
from visuomotor.text.layout import TextLayout
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["conversation_sample", "conversation_views"]


def conversation_sample(
    config: ProcessorConfig,
    tokenizer: TextTokenizer,
    conversation: Conversation,
    rng: np.random.Generator | None = None,
    *,
    source: int = 0,
    begin: str = "",
) -> Sample:
    """A training sample with `rng`; without it the same up to the last question, which a model is to answer.

    `begin`: words with which that answer has to begin.

    Every answer sees the turns before it. Pictures are never shifted, because words may say where things are. State
    and actions are zero, and no action is valid.

    Raises:
        ValueError: more images than the model has views, or a text longer than max_text.
    """
    images = [fit(i, config.image_size) if config.image_size is not None else i for i in conversation.images]
    if rng is not None:
        images = [augment(i, Shift(), config.augment, rng) for i in images]
    pieces = _text(config, config.layout(tokenizer), conversation, answered=rng is not None)
    if begin:
        pieces.append(scaffold.Piece(tokenizer.encode(begin), TextKind.ANSWER, False))
    ids, kinds, targets, _ = scaffold.text_of(pieces)
    if len(ids) > config.max_text:
        raise ValueError(
            f"The text of a conversation has {len(ids)} tokens but max_text is {config.max_text}; raise max_text."
        )
    actions = (config.horizon, config.action_width)
    return Sample(
        images=dict(zip(config.image_roles, images, strict=False)),
        views=conversation_views(config, len(images)),
        text_ids=ids,
        text_kind=kinds,
        text_loss=targets,
        state=np.zeros(config.state_width, dtype=np.float32),
        actions=None if rng is None else np.zeros(actions, dtype=np.float32),
        action_valid=None if rng is None else np.zeros(actions, dtype=bool),
        source=source,
    )


def conversation_views(config: ProcessorConfig, images: int) -> tuple[bool, ...]:
    """The first views, as many as there are images."""
    if images > len(config.image_roles):
        raise ValueError(
            f"A conversation has {images} images but the model the views {list(config.image_roles)}; leave images out."
        )
    return tuple(i < images for i in range(len(config.image_roles)))


def _text(
    config: ProcessorConfig, layout: TextLayout, conversation: Conversation, *, answered: bool
) -> scaffold.Pieces:
    """All turns; in training, later ones that go beyond max_text are left out whole."""
    pieces: scaffold.Pieces = []
    length, last = 0, len(conversation.turns) - 1
    for turn, (question, answer) in enumerate(conversation.turns):
        open_end = turn == last and not answered
        pair = layout.exchange(question, None if open_end else answer, first=turn == 0)
        length += sum(len(p.ids) for p in pair)
        if answered and pieces and length > config.max_text:
            break
        pieces += pair
    return pieces
