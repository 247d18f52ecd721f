"""How a policy does near changes of phase: its error there and elsewhere, what its router says along episodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from visuomotor.contract import Batch
from visuomotor.data.lerobot import Dataset
from visuomotor.data.prepared import spread_rows
from visuomotor.evaluation.results import EpisodeRecord
from visuomotor.policy import Policy, load_policy
from visuomotor.studies.attention_maps import draw_attention
from visuomotor.studies.held_out import held_out_rows

__all__ = ["measure_near_changes"]

FRAMES = 512  # held-out frames that are measured
EPISODES = 4  # that are drawn
DRAWN = 2  # frames of each kind whose attention is drawn
EXECUTED = 4  # steps of a chunk whose error counts
SIZE = 32  # observations of a batch


def measure_near_changes(checkpoint: Path, data: Path, rollouts: list[EpisodeRecord], out: Path) -> dict[str, float]:
    """On held-out demonstrations, the mean error of the executed steps in normalised units, "error near" changes of
    phase and "error elsewhere", and with a router its "router AUC" for the labels. `out`/routing.png has its
    probability along demonstrations and along `rollouts`, `out`/attention.png what the class token and registers of
    a policy with visual tokens look at. What has no frame, as without any change, is left out.

    Raises:
        ValueError: the policy's samples carry no trajectory weights or labels, so nobody knows where changes are.
    """
    policy, dataset = load_policy(checkpoint), Dataset(data)
    config = policy.processor.config
    if not config.router or "trajectory" not in config.weights:
        raise ValueError(
            f"{checkpoint} was trained without trajectory weights and router labels; set processor.weights to "
            f"trajectory,chunk and processor.router to true."
        )
    slices, rows = held_out_rows(dataset, FRAMES)
    near, elsewhere, said, labels = [], [], [], []
    for batch in _batches(policy, dataset, rows):
        shape = (batch.size, 1, config.horizon, config.action_width)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(policy.device)
        sampled = policy.model.sample(batch, noise=noise)
        error = (sampled.actions[:, 0] - batch.actions).abs()[:, :EXECUTED]
        there = (batch.weights["trajectory"] > config.weighting.threshold)[:, :EXECUTED, None]
        valid = _valid(batch)[:, :EXECUTED]
        near.append(error[valid & there])
        elsewhere.append(error[valid & ~there])
        labels.append(batch.labels["router"])
        if "router" in sampled.extras:
            said.append(sampled.extras["router"])
    errors = {"error near": torch.cat(near), "error elsewhere": torch.cat(elsewhere)}
    found = {name: float(values.mean()) for name, values in errors.items() if len(values)}
    manipulates = torch.cat(labels).cpu().numpy() > 0
    if said:
        if manipulates.any() and not manipulates.all():
            found["router AUC"] = _auc(torch.cat(said).cpu().numpy(), manipulates)
        _draw(policy, dataset, slices[:EPISODES], rollouts[:EPISODES], out / "routing.png")
    if getattr(policy.model.config, "vt", False):
        chosen = [rows[kind][spread_rows(int(kind.sum()), DRAWN)] for kind in (manipulates, ~manipulates) if kind.any()]
        draw_attention(
            policy.model.backbone.vision, next(_batches(policy, dataset, np.concatenate(chosen))), out / "attention.png"
        )
    return found


def _batches(policy: Policy, dataset: Dataset, rows: np.ndarray) -> Iterator[Batch]:
    """The samples of some rows, as validation has them."""
    processor = policy.processor
    index = processor.embodiment_index(dataset.require_embodiment())
    for start in range(0, len(rows), SIZE):
        part = rows[start : start + SIZE]
        images = {camera: dataset.frames(camera, part) for camera in dataset.cameras}
        samples = [
            processor.sample(
                index, dataset, int(row), {c: frames[i] for c, frames in images.items()}, np.random.default_rng(0)
            )
            for i, row in enumerate(part)
        ]
        yield processor.collate(samples).to(policy.device)


def _valid(batch: Batch) -> torch.Tensor:
    assert batch.action_valid is not None, "samples of demonstrations have actions"
    return batch.action_valid


def _auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive frame scores above a negative one."""
    pairs = positive.sum() * (~positive).sum()
    return float(mannwhitneyu(scores[positive], scores[~positive]).statistic / pairs)


def _draw(policy: Policy, dataset: Dataset, episodes: list[slice], rollouts: list[EpisodeRecord], path: Path) -> None:
    """Above, the router's probability along demonstrations with its labels shaded; below, along rollouts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = max(len(episodes), len(rollouts))
    figure, axes = pyplot.subplots(2, columns, figsize=(3.2 * columns, 4.4), sharey=True, squeeze=False)
    for axis, frames in zip(axes[0], episodes, strict=False):
        said, label = [], []
        for batch in _batches(policy, dataset, np.arange(frames.start, frames.stop)):
            with torch.no_grad():
                said.append(policy.model.head.route(policy.model.encode(batch)).probability)
            label.append(batch.labels["router"])
        chance, positive = torch.cat(said).cpu().numpy(), torch.cat(label).cpu().numpy()
        axis.fill_between(np.arange(len(positive)), positive, step="mid", color="0.88", label="label")
        axis.plot(chance, label="router")
        _title(axis, dataset.instructions(np.array([frames.start]))[0], "frame of a demonstration")
    for axis, record in zip(axes[1], rollouts, strict=False):
        axis.plot([look[0] for look in record.router], [look[1] for look in record.router], marker=".")
        _title(axis, f"{record.task}: {'success' if record.success else 'failure'}", "step of a rollout")
    for axis in (*axes[0, len(episodes) :], *axes[1, len(rollouts) :]):
        axis.set_visible(False)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _title(axis: Any, text: str, below: str) -> None:
    axis.set_title(text, fontsize=7)
    axis.set_xlabel(below, fontsize=7)
    axis.axhline(0.5, color="0.6", linewidth=0.5)
    axis.set_ylim(-0.03, 1.03)
