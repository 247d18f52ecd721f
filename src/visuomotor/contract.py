"""The types that pass between the rooms of the library. Nothing here computes.

training    Episode --(data)--> Sample --(data)--> Batch --(models)--> Losses --(training)--> Checkpoint
inference   Observation --(policy)--> Batch of 1 --(models)--> Sampled --(policy)--> ActionChunk --> robot

Dimensions: B batch, V views, L text tokens, T horizon, A padded action width, S padded state width,
K noise draws per prefix, N samples per prefix.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from visuomotor.embodiment import Camera, Component, Embodiment
from visuomotor.spelling import require_choices

__all__ = [
    "ActionChunk", "Annotation", "Batch", "Camera", "Component", "Embodiment", "Episode", "EvalPlan", "Losses",
    "Mixture", "Observation", "ProcessorSource", "Run", "Sampled", "Scenario", "Source", "Stage", "Term", "TextKind",
    "mean_of",
]  # fmt: skip


class TextKind(IntEnum):
    """What a text token belongs to. Visibility and loss weights are decided by kind."""

    PAD = 0
    PROMPT = 1
    SUBTASK = 2
    BOX = 3
    TRAJECTORY = 4
    ACTION = 5  # discrete action tokens: never visible to the continuous action chunk
    ANSWER = 6  # vision-language data
    QUERY = 7  # placeholder without an embedding, in front of which a head reads the model's states


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a robot or simulator reports at one moment, in robot units.

    images: {camera name: uint8[h, w, 3]}; state: float32[s]; instruction: plain text; time: seconds, on the clock of
    who took it; goal: images of the state to be reached, as `images`, for policies that read them.
    """

    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    time: float = 0.0
    goal: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """Actions float32[T, A] in robot units, answering the observation taken at `time` (seconds).

    text: what the policy reasoned, level by level, e.g. {"subtask": "grasp the red block"}.
    extras: progress, router weights, latency in seconds, ...
    """

    actions: np.ndarray
    embodiment: Embodiment
    time: float = 0.0
    text: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What the simulator (or a labeller) knows about one frame; coordinates are 0-1000 of the stored image.

    boxes: {camera: {object name: (x1, y1, x2, y2)}}, visible objects of the task.
    point: {camera: (x, y)}, the end-effector; the future trace is made from later frames' points.
    """

    subtask: str
    boxes: dict[str, dict[str, tuple[int, int, int, int]]]
    point: dict[str, tuple[int, int]]
    progress: float
    gripper_switch: bool
    contact: bool


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One demonstration of F frames: state float32[F, s], actions float32[F, a], images {camera: uint8[F, h, w, 3]}.

    `annotations` has one entry per frame, or is empty. `info` is kept in the data set's episode table:
    scenario, success, counters; values must be JSON.
    """

    instruction: str
    state: np.ndarray
    actions: np.ndarray
    images: dict[str, np.ndarray]
    annotations: tuple[Annotation, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors for one step. Absent parts are None.

    images      {camera role: uint8[B, h, w, 3]} of the views that any row has, in the processor's order, zeros in rows
                without that view; float[B, C, s, s]: prepared already, as the vision tower takes them
    image_valid bool[B, V]: the views of each row
    views, mixes_views   which views any row has, and whether rows differ in them; on the host
    goal        {camera role: uint8[B, h, w, 3]}: images of the state to be reached; empty where none is read
    text_*      int64 / bool [B, L]: ids, valid, kind (TextKind), loss (token is a target of the text loss)
    text_turn   int64[B, L]: tokens of turn k > 0 (a question with its answer, a level that sees no other) see turn 0
                (images, and the prompt that levels share) and their own, as if each were asked alone; None: one text
    state       float32[B, S] normalised
    actions     float32[B, T, A] normalised; None at inference
    action_valid bool[B, T, A]; False on padded steps and widths, and everywhere on samples without actions
    weights     {name: float32[B, T]} per-step loss weights, as ProcessorConfig.weights names them
    labels      {name: tensor}: "progress" float32[B, 2], now and at the chunk's end (at inference [B, 1]); "router"
                float32[B], 1 where the robot manipulates; "head" int64[B], which of two heads acted before
    embodiment, source  int64[B]: index into the processor's embodiments, into the mixture's sources
    control_hz  float32[B]: actions per second of each row's robot, 0 for rows of no robot; None: not stated
    row, rows   int64[B] and int: place of each row in the global batch, and the size of that batch over all ranks and
                micro-batches, for draws that are stratified over it; None: the batch is whole
    """

    images: dict[str, UInt8[Tensor, "B h w 3"] | Float[Tensor, "B C s s"]]
    image_valid: Bool[Tensor, "B V"]
    text_ids: Int64[Tensor, "B L"]
    text_valid: Bool[Tensor, "B L"]
    text_kind: Int64[Tensor, "B L"]
    text_loss: Bool[Tensor, "B L"]
    state: Float[Tensor, "B S"]
    actions: Float[Tensor, "B T A"] | None
    action_valid: Bool[Tensor, "B T A"] | None
    embodiment: Int64[Tensor, "B"]
    source: Int64[Tensor, "B"]
    weights: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    text_turn: Int64[Tensor, "B L"] | None = None
    goal: dict[str, UInt8[Tensor, "B h w 3"]] = field(default_factory=dict)
    control_hz: Float[Tensor, "B"] | None = None
    row: Int64[Tensor, "B"] | None = None
    rows: int | None = None
    views: tuple[bool, ...] = field(init=False)
    mixes_views: bool = field(init=False)

    def __post_init__(self) -> None:
        # Asked once, where the batch is made: of a tensor on a GPU the host would have to wait for the answer.
        valid = self.image_valid
        object.__setattr__(self, "views", tuple(valid.any(0).tolist()))
        object.__setattr__(self, "mixes_views", not bool(valid[:, list(self.views)].all()))

    @property
    def size(self) -> int:
        return self.text_ids.shape[0]

    @property
    def present(self) -> Bool[Tensor, "B N"]:
        """Which rows have each of the images, in their order."""
        return self.image_valid[:, list(self.views)]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed, e.g. moved or cut along B; `views` and `mixes_views` stay."""

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, dict):
                return {k: changed(v) for k, v in value.items()}
            return value

        batch = copy(self)
        for f in fields(self):
            object.__setattr__(batch, f.name, changed(getattr(self, f.name)))
        return batch

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True, kw_only=True)
class Term:
    """A loss as a sum over `count` entries; the mean is taken after adding micro-batches and ranks.

    count: may be a sum of weights, so below 1; where it is 0 the sum is 0, too, and so is the mean.
    rows: float[2, B], sum and count of each sample without gradient, for losses by source; None: not known.
    """

    sum: Tensor
    count: Tensor
    weight: float = 1.0
    rows: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Named loss terms. total = sum over terms of weight * sum / count (a term with count 0 adds 0)."""

    terms: dict[str, Term]

    @property
    def total(self) -> Tensor:
        return sum((t.weight * mean_of(t.sum, t.count) for t in self.terms.values()), torch.zeros(()))


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """total / count, total where nothing was counted."""
    return total / count.where(count > 0, 1)


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What a model samples: actions float[B, N, T, A] normalised, never sent to a robot as they are.

    text_ids: int64[B, G] generated token ids (padded with the model's pad id), None when no text was asked for.
    lines, finished: int64[B, G] of each line that was asked for, and bool[B, lines]: written before time ran out.
    """

    actions: Tensor
    text_ids: Tensor | None = None
    lines: tuple[Tensor, ...] = ()
    finished: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One fixed start of an environment: the same scenario gives the same initial state everywhere.

    environment: registered name; task: the environment's own task id; seed: initial state;
    split: `train`, `heldout_combination`, ...; instruction: overrides the environment's sentence when set.
    """

    environment: str
    task: str
    seed: int
    split: str = "train"
    instruction: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One entry of a mixture: data (`path`), or a named generator, and its share.

    path         a LeRobot v3 folder, `FILE.py:thing:PATH` for a format of the user's own, or a conversation file
    options      "objective": what its samples teach (data/config.py), "kinds": {kind of question: weight}, "images":
                 the folder of a conversation file's images, "cache": see training/assembly.py
    """

    name: str
    path: str | None = None
    generator: str | None = None
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a stage trains on. `validation` is the share of episodes held out."""

    sources: tuple[Source, ...]
    validation: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a curriculum.

    trains       {pattern over part names: learning rate}; other parts are frozen, the longest matching pattern counts
    batch_size   samples per optimiser step, computed in `accumulate` equal micro-batches (same loss, less memory)
    minutes      ends the stage after this wall-clock time if `steps` were not reached; the learning rate anneals by
                 the larger of the two fractions, so exact resume holds only without it
    warmup       steps of linear warm-up, at most a fifth of the stage
    start        None goes on from the stage before (or fresh weights), a checkpoint folder, or "stage:NAME"
    optimiser    "adamw", or "muon": Muon for hidden matrices, AdamW for the rest
    lora         rank of adapters through which the parts in `lora_parts` train (as fast as `trains` says) while their
                 own weights stand still; 0: the weights train. Their product is multiplied by lora_alpha / rank (None:
                 by 1), their inputs are dropped with probability lora_dropout
    checkpoint_activations   keep only each layer's input and compute the rest again in the backward pass: less memory,
                 about a third more time, the same result
    mix_views    samples with different views share a batch; else batches take turns, which costs less (a nano DM0 6 %,
                 a pi0 19 %, LOG.md), and shares of sources are held over batches instead of rows
    precision    "float32", or "house" (also "bf16"): float32 master weights, bfloat16 products
    *_every      cadence in steps, 0 is never; `validation_batches` per validation, at least one of each source;
                 `keep` checkpoints are kept
    """

    name: str
    steps: int
    mixture: Mixture
    batch_size: int = 64
    accumulate: int = 1
    trains: dict[str, float] = field(default_factory=lambda: {"*": 1e-3})
    loss_weights: dict[str, float] = field(default_factory=dict)
    warmup: int = 100
    final_lr: float = 0.1
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.0
    precision: str = "float32"
    optimiser: Literal["adamw", "muon"] = "adamw"
    lora: int = 0
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    lora_parts: tuple[str, ...] = ("llm",)
    checkpoint_activations: bool = False
    mix_views: bool = False
    start: str | None = None
    seed: int = 0
    minutes: float | None = None
    log_every: int = 20
    validate_every: int = 0
    validation_batches: int = 4
    checkpoint_every: int = 500
    keep: int = 2


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """What is rolled out after training.

    splits           `episodes` each; the controls beside them take `control_episodes` each
    execute          actions of a chunk that are executed before the policy looks again (ensembles look at every step)
    executor         what turns chunks into actions (execution's EXECUTORS)
    latency          seconds of the world's clock between an observation and the chunk that answers it
    safety           what the safety filter does with commands beyond the limits: clamp, reject, or shadow (only count)
    think            scaffold levels that the policy writes before it acts, e.g. ("subtask",); () acts at once, None
                     does what the checkpoint says
    actions_from     "flow", or "tokens": chunks are the action tokens that the policy writes; None as for think
    policy           other settings of the policy in place of the checkpoint's, e.g. {"think_every": 2}
    wording          of prompts, for a policy that was trained with templates: canonical, or held-out ones as a control
    options          of the world, for its environment or its scenarios, e.g. {"vocabulary": "full", "tasks": ["push"]}
    """

    environment: str
    episodes: int = 100
    splits: tuple[str, ...] = ("train",)
    control_episodes: int = 25
    max_steps: int | None = None
    execute: int = 8
    executor: str = "receding_horizon"
    latency: float = 0.0
    safety: Literal["clamp", "reject", "shadow"] = "clamp"
    think: tuple[str, ...] | None = None
    actions_from: Literal["flow", "tokens"] | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    wording: Literal["canonical", "heldout"] = "canonical"
    seed: int = 100_000
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ProcessorSource:
    """Origin of a run's processor.

    checkpoint   folder whose processor is taken, with some fields replaced; None: it is built from the data
    tokenizer    folder or Hub name of a public language model whose tokenizer is taken instead of training one
    statistics   with a checkpoint: normalisation by its own statistics, or by those of the data
    embodiment   with a checkpoint: its own robots, or those of the data, which learn with its weights and words
    """

    checkpoint: str | None = None
    tokenizer: str | None = None
    statistics: Literal["checkpoint", "data"] = "checkpoint"
    embodiment: Literal["checkpoint", "data"] = "checkpoint"

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.tokenizer is not None:
            raise ValueError(
                f"The tokenizer comes from checkpoint {self.checkpoint} or from {self.tokenizer}; name one of them."
            )
        require_choices(self)
        if self.embodiment == "data" and self.statistics != "data":
            raise ValueError("embodiment is 'data', so statistics must be 'data', too.")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A recipe's result: model name and configuration, stages by name, evaluation plan.

    weights      {part: folder or name on the Hugging Face Hub} of public weights that a fresh model starts from;
                 "before" is the last checkpoint of the run before
    before       a run of another model that is trained first, in the subfolder of its name: an earlier part of a
                 curriculum, from which `weights` takes something
    processor    fields of ProcessorConfig in which it differs from the checkpoint of its source, or from the default;
                 horizon, widths and image side are the model's
    processor_from   where its tokenizer, robots and statistics come from
    corpus       sentences for the tokenizer beside those found in the data
    overrides    what was changed on the command line, for the record
    """

    name: str
    model: str
    config: Any
    stages: dict[str, Stage]
    evaluation: EvalPlan | None = None
    weights: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    processor_from: ProcessorSource = field(default_factory=ProcessorSource)
    corpus: tuple[str, ...] = ()
    before: "Run | None" = None
    overrides: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.before is not None) != ("before" in self.weights.values()):
            raise ValueError(
                f"Run {self.name!r} has {'no' if self.before is None else 'a'} run before it, but its weights are "
                f"{self.weights}; a part whose weights are 'before' and a run before it go together."
            )
