"""ProcessorConfig: how samples become tensors. Saved with every checkpoint."""

from dataclasses import dataclass, field
from typing import Any, Literal

from visuomotor.data import scaffold
from visuomotor.data.augment import AugmentConfig

__all__ = ["Objective", "ProcessorConfig"]

# Samples of a robot, questions from boxes of two older mixes and of chosen kinds, conversations.
Objective = Literal["robot", "grounding", "boxes", "questions", "conversation"]


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How samples become tensors.

    horizon, action_width, state_width: T, A, S of the model.
    image_roles: camera roles in the model's order; `optional_roles` may be missing (a masked view).
    image_size: side in pixels to pad and resize to; None leaves images as they are stored.
    levels: {scaffold level: probability that its line is present in a training sample}.
    action_reference: "embodiment" keeps what the data says; "chunk_start" learns absolute components as differences
        to the state at the start of the chunk; `state_of` pairs action with state components of other names.
    coordinates: the side of an image in the coordinates of texts; with at most 100, a tokenizer trained here has one
        token for each, which is learnt faster (nano: 100).
    action_token_stride: every how many steps the discrete action line has a step.
    trajectory_stride: frames between two points of the trajectory line.
    templates: "grammar" asks in words drawn from data/templates.py, and at inference in the canonical ones, "heldout"
        is the same with held-out words at inference (a control); "none" says the bare instruction or question.
    tags: the user's turn of a robot sample begins with robot and control mode (data/tags.py).
    """

    horizon: int = 8
    action_width: int = 8
    state_width: int = 8
    image_roles: tuple[str, ...] = ("scene", "wrist")
    optional_roles: tuple[str, ...] = ()
    image_size: int | None = None
    levels: dict[str, float] = field(default_factory=lambda: {"subtask": 0.5, "action": 1.0})
    prompt: scaffold.PromptStyle = "plain"
    max_text: int = 256
    action_reference: Literal["embodiment", "chunk_start"] = "embodiment"
    state_of: dict[str, str] = field(default_factory=dict)
    coordinates: int = 1000
    action_token_stride: int = 1
    trajectory_stride: int = 4
    questions_per_image: int = 4
    vocab_size: int = 1024
    templates: Literal["none", "grammar", "heldout"] = "none"
    tags: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        unknown = set(self.levels) - set(scaffold.LEVELS)
        if unknown:
            raise ValueError(f"Unknown scaffold levels {sorted(unknown)}; choose from {list(scaffold.LEVELS)}.")
        for level, probability in self.levels.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"The probability of level {level!r} is {probability}; it must lie in 0-1.")
        for name in ("horizon", "action_token_stride", "trajectory_stride", "questions_per_image", "max_text"):
            if getattr(self, name) < 1:
                raise ValueError(f"ProcessorConfig.{name} is {getattr(self, name)}; it must be at least 1.")
        if not 10 <= self.coordinates <= 1000:
            raise ValueError(f"ProcessorConfig.coordinates is {self.coordinates}; it must lie in 10-1000.")
        if not self.image_roles:
            raise ValueError("image_roles is empty; a policy needs at least one camera role.")

    def coordinate(self, value: int) -> int:
        """A stored coordinate 0-1000 as texts have it; on a coarser scale the largest is one less than the scale."""
        return value if self.coordinates == 1000 else min(value * self.coordinates // 1000, self.coordinates - 1)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ProcessorConfig":
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**{**values, "augment": AugmentConfig(**data["augment"])})
