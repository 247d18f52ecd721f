"""Pictures of where DINOv2's class token and registers look, on frames of demonstrations."""

from pathlib import Path

import numpy as np

from visuomotor.backbones.towers import PrismaticVision
from visuomotor.contract import Batch
from visuomotor.models.damvla.attention import prefix_attention

__all__ = ["draw_attention"]


def draw_attention(vision: PrismaticVision, batch: Batch, path: Path) -> None:
    """One row for each sample: its first view, and over it what the class token and each register attend to.

    Maps are means over heads, each from 0 to its own maximum. Labels "router", where there are any, name the rows.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tower = vision.dinov2
    images = next(iter(batch.images.values()))
    maps = prefix_attention(tower, vision.prepare(images)[:, :3]).mean(2).cpu().numpy()
    names = ["class token"] * tower.config.class_token + [f"register {i + 1}" for i in range(tower.config.registers)]
    shape = (batch.size, 1 + len(names))
    figure, axes = pyplot.subplots(*shape, figsize=(1.7 * shape[1], 1.8 * shape[0]), squeeze=False)
    said = {1.0: "manipulates", 0.0: "moves"}
    labels = (
        [said[value] for value in batch.labels["router"].tolist()] if "router" in batch.labels else [""] * batch.size
    )
    for row, (picture, own, label) in enumerate(zip(images.cpu().numpy(), maps, labels, strict=True)):
        axes[row, 0].imshow(picture)
        axes[row, 0].set_ylabel(label, fontsize=8)
        for axis, name, values in zip(axes[row, 1:], names, own, strict=True):
            side = picture.shape[0]
            axis.imshow(picture.mean(-1), cmap="gray", extent=(0, side, side, 0))
            axis.imshow(values / np.maximum(values.max(), 1e-9), cmap="inferno", alpha=0.55, extent=(0, side, side, 0))
            if row == 0:
                axis.set_title(name, fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
