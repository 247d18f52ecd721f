"""Sample: one training example or observation as numpy arrays, and how samples become a Batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from visuomotor.contract import Batch

__all__ = ["Sample", "collate"]

TEXT_MULTIPLE = 8  # bounds the number of distinct shapes that kernels and compilers see


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Sizes as in contract.Batch without B. actions and action_valid are None at inference.

    images {role: uint8[h, w, 3]}, present views only; text_* [L]: int64, int64, bool, int64; state float32[S];
    actions float32[T, A]; action_valid bool[T, A]; weights {name: float32[T]}; labels {name: array};
    goal {role: uint8[h, w, 3]}.
    """

    images: dict[str, np.ndarray]
    views: tuple[bool, ...]
    text_ids: np.ndarray
    text_kind: np.ndarray
    text_loss: np.ndarray
    state: np.ndarray
    actions: np.ndarray | None = None
    action_valid: np.ndarray | None = None
    embodiment: int = 0
    source: int = 0
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    text_turn: np.ndarray | None = None
    goal: dict[str, np.ndarray] = field(default_factory=dict)
    control_hz: float = 0.0


def collate(
    samples: Sequence[Sample],
    roles: Sequence[str],
    pad_id: int,
    *,
    rows: tuple[int, int] | None = None,
    mix_views: bool = False,
) -> Batch:
    """Batch of samples; text is padded right to a multiple of 8.

    Weights, labels and goals that only some samples have are zero in the others, which have no valid action.

    Args:
        rows: (place of the first sample in the global batch, size of that batch), by default (0, samples).
        mix_views: samples may have different views; images are zero where a sample lacks a view of the others.

    Raises:
        ValueError: no samples, different views without `mix_views`, or images of different sizes.
    """
    if not samples:
        raise ValueError("A batch needs at least one sample.")
    first = samples[0]
    if not mix_views and any(s.views != first.views for s in samples):
        raise ValueError(
            f"Samples with views {sorted({s.views for s in samples})} cannot share a batch; group them by their views."
        )
    start, size = rows or (0, len(samples))
    longest = max(len(s.text_ids) for s in samples)
    length = -(-longest // TEXT_MULTIPLE) * TEXT_MULTIPLE
    ids = np.full((len(samples), length), pad_id, dtype=np.int64)
    kinds = np.zeros((len(samples), length), dtype=np.int64)
    valid = np.zeros((len(samples), length), dtype=bool)
    loss = np.zeros((len(samples), length), dtype=bool)
    turn = None
    if any(s.text_turn is not None for s in samples):  # a sample whose text is one stays in turn 0
        turn = np.zeros((len(samples), length), dtype=np.int64)
    for i, s in enumerate(samples):
        n = len(s.text_ids)
        ids[i, :n], kinds[i, :n], valid[i, :n], loss[i, :n] = s.text_ids, s.text_kind, True, s.text_loss
        if turn is not None and s.text_turn is not None:
            turn[i, :n] = s.text_turn
    return Batch(
        images=_by_name([s.images for s in samples], roles),
        image_valid=torch.from_numpy(np.array([s.views for s in samples])),
        text_ids=torch.from_numpy(ids),
        text_valid=torch.from_numpy(valid),
        text_kind=torch.from_numpy(kinds),
        text_loss=torch.from_numpy(loss),
        state=_stack([s.state for s in samples]),
        actions=None if first.actions is None else _stack([s.actions for s in samples]),
        action_valid=None if first.action_valid is None else _stack([s.action_valid for s in samples]),
        embodiment=torch.tensor([s.embodiment for s in samples], dtype=torch.int64),
        source=torch.tensor([s.source for s in samples], dtype=torch.int64),
        weights=_by_name([s.weights for s in samples]),
        labels=_by_name([s.labels for s in samples]),
        text_turn=None if turn is None else torch.from_numpy(turn),
        goal=_by_name([s.goal for s in samples], roles),
        control_hz=torch.tensor([s.control_hz for s in samples], dtype=torch.float32),
        row=torch.arange(start, start + len(samples)),
        rows=size,
    )


def _stack(arrays: Sequence[np.ndarray | None]) -> torch.Tensor:
    return torch.from_numpy(np.stack([a for a in arrays if a is not None]))


def _by_name(arrays: Sequence[Mapping[str, np.ndarray]], names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Arrays of the same name as one tensor, zeros where a sample has none; in the order of `names`."""
    present = set().union(*arrays)
    tensors = {}
    for name in sorted(present) if names is None else (name for name in names if name in present):
        values = [sample.get(name) for sample in arrays]
        missing = np.zeros_like(next(value for value in values if value is not None))
        filled = [missing if value is None else value for value in values]
        try:
            tensors[name] = _stack(filled)
        except ValueError:
            sizes = sorted({value.shape[:2] for value in filled})
            raise ValueError(
                f"Images of sizes {sizes} of view {name!r} meet in one batch; set image_size to one side."
            ) from None
    return tensors
