"""ProcessorConfig: how samples become tensors. Saved with every checkpoint."""

from dataclasses import dataclass, field
from typing import Literal

from visuomotor.data.augment import AugmentConfig
from visuomotor.data.normalization import NEAR_CONSTANT, Method
from visuomotor.data.weighting import WEIGHTS, WeightingConfig
from visuomotor.spelling import require_choices
from visuomotor.text.layout import TextLayout
from visuomotor.text.layouts import find_layout
from visuomotor.text.scaffold import LEVELS

__all__ = ["Objective", "ProcessorConfig"]

# Samples of a robot, questions from boxes of two older mixes and of chosen kinds, conversations.
Objective = Literal["robot", "grounding", "boxes", "questions", "conversation"]


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How samples become tensors.

    horizon, action_width, state_width: T, A, S of the model.
    image_roles: camera roles in the model's order; `optional_roles` may be missing (a masked view).
    goal_roles: camera roles of which samples carry a goal image: in training that of a frame drawn uniformly from the
        rest of the episode (hindsight relabelling, as in Octo), at inference that of the observation.
    image_size: side in pixels to pad and resize to; None leaves images as they are stored.
    levels: {scaffold level: probability that its line is present in a training sample}.
    prompt: name of the text layout (text/layouts.py): "plain", the instruction in a line of its own; "dm0", the
        published DM0's; "qwen2_vl", the chat layout of DexVLA (text/chat.py), whose only level is the sub-task, the
        reasoning of every sample (1) or of none (0); "cogact", which has no levels; "openvla_oft", in which a query
        stands for each number of the chunk; "pi0" and "pi05", the published ones' (text/pi0.py).
    action_reference: "embodiment" keeps what the data says; "chunk_start" learns absolute components as differences
        to the state at the start of the chunk; `state_of` pairs action with state components of other names, and
        `wrap_angles` takes angles the short way round (the servers of published models do not).
    progress: samples carry how far the task is, now and at the chunk's end (for models with a progress token).
    weights: names of the loss weights per step that samples carry (data/weighting.py: "trajectory", "chunk", "move",
        "mani", "emphasis"); models multiply their action loss by all of them, damvla the first two by its switches.
    router: samples carry the label "router", whether the robot manipulates now; `weighting`: how both are made.
    action_normalization, state_normalization: "embodiment" takes what each component says; "min_max" and "z_score" are
        DexVLA's (data/normalization.py), for all of them. Its head bounds actions to [-1, 1], where min_max puts them.
    tell_state: off, zeros stand in the place of the robot's state, in training as at inference: a policy that is told
        its state may follow it instead of looking.
    near_constant: dimensions whose range is below it are centred instead of stretched (published: 0).
    coordinates: the side of an image in the coordinates of texts; with at most 100, a tokenizer trained here has one
        token for each, which is learnt faster (nano: 100).
    level_order: all levels in the order in which they stand in the text.
    scaffold: "sequential": each level sees those before it; "parallel": each sees images and prompt alone. The action
        chunk sees all of them.
    action_tokens: what the action line is made of: "bins", one of 255 tokens for each number, or "fast", frequencies in
        a vocabulary of `fast_vocab` tokens trained on the data (text/fast.py), rounded to 1/`fast_scale`.
    action_token_stride: every how many steps a line of bins has a step.
    trajectory_stride: frames between two points of the trajectory line.
    templates: "grammar" asks in words drawn from text/templates.py, and at inference in the canonical ones, "heldout"
        is the same with held-out words at inference (a control); "none" says the bare instruction or question.
    past_end: the steps of a chunk past its episode's end: "repeat" the last action, or stand "still": differences per
        step are zero, grippers and absolute targets repeat. Neither is valid data.
    clip_actions: normalised actions are clipped to [-1, 1], in training and before they reach the robot (CogACT);
        clip_state: the normalised state is, too (OpenVLA-OFT).
    binary_grippers: gripper commands for the robot are its opened or its closed value, whichever is nearer (CogACT).
    tags: the user's turn of a robot sample begins with robot and control mode (text/tags.py).
    sentence: robot samples carry what they are told as one frozen embedding, the label "sentence" (text/sentences.py):
        "hashed", or the folder or name of a DistilBERT; "" is none. `sentence_of` says of what: "subtask", the text of
        the sub-step that a frame belongs to (of the instruction where a frame has none), or "instruction". At inference
        it is the observation's instruction, or the sub-task where one is given.
    """

    horizon: int = 8
    action_width: int = 8
    state_width: int = 8
    image_roles: tuple[str, ...] = ("scene", "wrist")
    optional_roles: tuple[str, ...] = ()
    goal_roles: tuple[str, ...] = ()
    image_size: int | None = None
    levels: dict[str, float] = field(default_factory=lambda: {"subtask": 0.5, "action": 1.0})
    prompt: str = "plain"
    max_text: int = 256
    action_reference: Literal["embodiment", "chunk_start"] = "embodiment"
    state_of: dict[str, str] = field(default_factory=dict)
    wrap_angles: bool = True
    action_normalization: Method = "embodiment"
    state_normalization: Method = "embodiment"
    tell_state: bool = True
    near_constant: float = NEAR_CONSTANT
    coordinates: int = 1000
    level_order: tuple[str, ...] = LEVELS
    scaffold: Literal["sequential", "parallel"] = "sequential"
    action_tokens: Literal["bins", "fast"] = "bins"
    fast_vocab: int = 256
    fast_scale: float = 10.0
    action_token_stride: int = 1
    trajectory_stride: int = 4
    questions_per_image: int = 4
    progress: bool = False
    weights: tuple[str, ...] = ()
    router: bool = False
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    vocab_size: int = 1024
    templates: Literal["none", "grammar", "heldout"] = "none"
    tags: bool = False
    past_end: Literal["repeat", "still"] = "repeat"
    clip_actions: bool = False
    clip_state: bool = False
    binary_grippers: bool = False
    sentence: str = ""
    sentence_of: Literal["subtask", "instruction"] = "subtask"
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        unknown = set(self.levels) - set(LEVELS)
        if unknown:
            raise ValueError(f"Unknown scaffold levels {sorted(unknown)}; choose from {list(LEVELS)}.")
        if sorted(self.level_order) != sorted(LEVELS):
            raise ValueError(
                f"level_order is {list(self.level_order)}; it must name each of {list(LEVELS)} once. A level is left "
                f"out by a probability of 0 in levels."
            )
        if self.scaffold == "parallel" and self.level_order != LEVELS:
            raise ValueError(
                "level_order has no meaning where levels do not see each other; leave it, or set scaffold='sequential'."
            )
        require_choices(self)
        unknown = set(self.weights) - set(WEIGHTS)
        if unknown:
            raise ValueError(f"Unknown loss weights {sorted(unknown)}; choose from {list(WEIGHTS)}.")
        if self.fast_scale <= 0:
            raise ValueError(f"ProcessorConfig.fast_scale is {self.fast_scale}; it must be above 0.")
        for level, probability in self.levels.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"The probability of level {level!r} is {probability}; it must lie in 0-1.")
        for name in ("horizon", "action_token_stride", "trajectory_stride", "questions_per_image", "max_text"):
            if getattr(self, name) < 1:
                raise ValueError(f"ProcessorConfig.{name} is {getattr(self, name)}; it must be at least 1.")
        if not 10 <= self.coordinates <= 1000:
            raise ValueError(f"ProcessorConfig.coordinates is {self.coordinates}; it must lie in 10-1000.")
        self.layout.check(self.levels, tags=self.tags, parallel=self.scaffold == "parallel")
        if self.layout.has_coordinates and (self.augment.crop or self.augment.rotation):
            raise ValueError(
                f"augment.crop and .rotation do not move boxes and points, which texts of the layout {self.prompt!r} "
                f"may name; set both to 0, or take a layout without coordinates."
            )
        if not self.image_roles:
            raise ValueError("image_roles is empty; a policy needs at least one camera role.")
        if not set(self.goal_roles) <= set(self.image_roles):
            raise ValueError(f"goal_roles {list(self.goal_roles)} must be among image_roles {list(self.image_roles)}.")

    @property
    def layout(self) -> type[TextLayout]:
        """Text layout that `prompt` names."""
        return find_layout(self.prompt)

    @property
    def weighs(self) -> bool:
        """Whether samples carry anything that is made of `weighting`."""
        return self.router or bool(self.weights)

    def turn(self, level: str) -> int:
        """The turn of a level's text (see contract.Batch): one of its own where levels do not see each other."""
        return LEVELS.index(level) + 1 if self.scaffold == "parallel" else 0

    def coordinate(self, value: int) -> int:
        """A stored coordinate 0-1000 as texts have it; on a coarser scale the largest is one less than the scale."""
        return value if self.coordinates == 1000 else min(value * self.coordinates // 1000, self.coordinates - 1)

    def stored(self, value: int) -> int:
        """A coordinate of a text as stored ones are, 0-1000; on a coarser scale the middle of what it stands for."""
        return value if self.coordinates == 1000 else min((2 * value + 1) * 500 // self.coordinates, 1000)
