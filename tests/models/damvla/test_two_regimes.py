"""A toy with two regimes: smooth reaching, and around a gripper switch a pose that must be met precisely.

What the vision-language model would make of a picture is given: random features of the phase, a far goal and a pose.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from tests.models.damvla.conftest import SMALL
from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.contract import Batch
from visuomotor.data.weighting import WeightingConfig, chunk_weight, phases_of, trajectory_weight
from visuomotor.models import make_config
from visuomotor.models.damvla import DAMVLA, switches

FRAMES, SWITCH, HORIZON, WIDTH = 40, 25, 4, 24
CONFIG = WeightingConfig()


@dataclass(frozen=True)
class Frames:
    """Every frame of some episodes: what is seen [F, 3], chunks [F, T, 2], weights [F, T], labels [F]."""

    seen: Tensor
    actions: Tensor
    valid: Tensor
    trajectory: Tensor
    label: Tensor


def demonstrations(episodes: int, seed: int) -> Frames:
    """The gripper closes at SWITCH. Far from it an action leads to the goal, near it to the pose."""
    rng, parts = np.random.default_rng(seed), []
    frame = np.arange(FRAMES)
    closed = frame >= SWITCH
    weight = trajectory_weight(phases_of(closed[:, None], CONFIG), FRAMES, CONFIG)
    near = weight > CONFIG.threshold
    step = frame[:, None] + np.arange(HORIZON)
    inside, at = step < FRAMES, np.minimum(step, FRAMES - 1)
    for _ in range(episodes):
        goal, pose = rng.uniform(-1, 1, 2)
        motion = np.where(near, pose, goal)
        action = np.stack([motion, np.where(closed, 1.0, -1.0)], axis=1)
        seen = np.stack([frame / FRAMES, np.full(FRAMES, goal), np.full(FRAMES, pose)], axis=1)
        parts.append(
            (seen, action[at], np.broadcast_to(inside[..., None], (FRAMES, HORIZON, 2)), weight[at] * inside, near)
        )
    columns = (torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True))
    seen, actions, valid, trajectory, label = columns
    return Frames(seen.float(), actions.float(), valid, trajectory.float(), label.float())


class Given:
    """Stands for the vision-language model."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.tensor([[8.0], [1.0], [1.0]]) * torch.randn(3, WIDTH, generator=generator)
        self.phases = 6 * torch.rand(WIDTH, generator=generator)

    def __call__(self, batch: Batch, request: ContextRequest, **_: object) -> Context:
        feature = torch.sin(batch.state @ self.directions + self.phases)[:, None]
        return Context(
            valid=batch.text_valid, labels=batch.text_ids, state=batch.state, embodiment=batch.embodiment,
            views=batch.views, told=batch.labels, states=dict.fromkeys(request.layers, feature),
        )  # fmt: skip


def batch_of(frames: Frames, rows: Tensor) -> Batch:
    ids = torch.zeros(len(rows), 1, dtype=torch.long)
    valid = frames.valid[rows]
    chunk = torch.from_numpy(chunk_weight(HORIZON, CONFIG.gamma)) * valid.any(-1)
    return Batch(
        images={}, image_valid=ids == 0, text_ids=ids, text_valid=ids == 0, text_kind=ids, text_loss=ids > 0,
        state=frames.seen[rows], actions=frames.actions[rows], action_valid=valid, embodiment=ids[:, 0],
        source=ids[:, 0], weights={"trajectory": frames.trajectory[rows], "chunk": chunk},
        labels={"router": frames.label[rows]},
    )  # fmt: skip


def trained(combination: str, steps: int = 250, seed: int = 0) -> DAMVLA:
    torch.manual_seed(seed)
    size = {
        "action_model.width": 32,
        "action_model.depth": 1,
        "action_model.action_dim": 2,
        "action_model.horizon": HORIZON,
        "action_model.repeated_diffusion_steps": 2,
    }
    model = DAMVLA(make_config("damvla", "nano", **{**SMALL, **size, **switches(combination), "vt": False}))
    model.backbone.encode = model.backbone.observe = Given()
    learnt = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    optimiser = torch.optim.AdamW(learnt, lr=3e-3, weight_decay=0.0)
    frames, generator = demonstrations(100, seed=0), torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.randint(len(frames.seen), (64,), generator=generator)
        optimiser.zero_grad()
        model.loss(batch_of(frames, rows), generator=generator).total.backward()
        optimiser.step()
    return model


@torch.no_grad()
def measured(model: DAMVLA) -> tuple[float, float, dict[str, Tensor], Tensor]:
    """Mean error of the executed step (near a switch, elsewhere) on new episodes; what the router said; its labels."""
    frames = demonstrations(25, seed=1)
    batch = batch_of(frames, torch.arange(len(frames.seen)))
    noise = torch.randn(batch.size, 1, HORIZON, 2, generator=torch.Generator().manual_seed(2))
    sampled = model.sample(batch, noise=noise)
    error = (sampled.actions[:, 0, 0] - frames.actions[:, 0]).abs().mean(-1)
    near = frames.label > 0
    return float(error[near].mean()), float(error[~near].mean()), sampled.extras, frames.label


@pytest.fixture(scope="module")
def full() -> DAMVLA:
    return trained("full")


def test_two_weighted_heads_are_more_precise_near_switches_than_one(full: DAMVLA) -> None:
    near, elsewhere, _, _ = measured(full)
    single, single_elsewhere, _, _ = measured(trained("base"))
    assert near < 0.9 * single
    assert elsewhere < single_elsewhere


def test_the_router_tells_the_regimes_apart(full: DAMVLA) -> None:
    _, _, said, label = measured(full)
    positive, negative = said["router"][label > 0], said["router"][label == 0]
    auc = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert auc > 0.95
    assert (said["head"] == label).float().mean() > 0.9
