"""A DM0 behind plain tensors and under the published names: what the published code computes, at any size."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.backbones.base import Context
from visuomotor.models.dm0.model import DM0
from visuomotor.models.dm0.names import NAMES
from visuomotor.models.dm0.tensors import Precision, assign, config_of, published_names
from visuomotor.models.raw import raw_batch

__all__ = ["PublishedDM0", "from_published"]


class PublishedDM0(nn.Module):
    """A DM0 fed with normalised images and masks per row, as the published code is."""

    def __init__(self, dm0: DM0) -> None:
        super().__init__()
        self.dm0 = dm0

    def published_parameters(self) -> dict[str, nn.Parameter]:
        """{published name: parameter}."""
        return {NAMES.published(name): parameter for name, parameter in self.dm0.named_parameters()}

    @torch.no_grad()
    def velocity(
        self,
        images: Float[Tensor, "B V 3 H W"],
        view_mask: Bool[Tensor, "B V"],
        ids: Int64[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        x: Float[Tensor, "B T A"],
        t: Float[Tensor, "B"],
    ) -> Float[Tensor, "B T A"]:
        """The velocity at x [B, T, A] and flow times t [B] (1 is noise)."""
        prefix = self.encode(images, view_mask, ids, text_mask)
        return self.dm0.denoise(prefix, x[:, None], t[:, None])[:, 0]

    @torch.no_grad()
    def sample_actions(
        self,
        images: Float[Tensor, "B V 3 H W"],
        view_mask: Bool[Tensor, "B V"],
        ids: Int64[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        noise: Float[Tensor, "B T A"],
        steps: int = 10,
    ) -> Float[Tensor, "B T A"]:
        """Normalised action chunks by `steps` Euler steps from `noise`."""
        prefix = self.encode(images, view_mask, ids, text_mask)
        return self.dm0.head.sample(prefix, noise[:, None], steps=steps).actions[:, 0]

    @torch.no_grad()
    def sample_progress(
        self,
        images: Float[Tensor, "B V 3 H W"],
        view_mask: Bool[Tensor, "B V"],
        ids: Int64[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        noise: Float[Tensor, "B T A"],
        progress: Float[Tensor, "B"],
        steps: int = 10,
    ) -> tuple[Float[Tensor, "B T A"], Float[Tensor, "B"]]:
        """DM0-Prog: chunks, and the progress predicted for their end (least over the steps, raw), from that at begin.

        Raises:
            ValueError: the model was built without its progress linears (`progress=True`).
        """
        if not self.dm0.config.progress_token:
            raise ValueError("This model has no progress linears; load it with from_published(..., progress=True).")
        prefix = self.encode(images, view_mask, ids, text_mask)
        prefix.told = {"progress": progress.reshape(-1, 1)}
        sampled = self.dm0.head.sample(prefix, noise[:, None], steps=steps)
        return sampled.actions[:, 0], sampled.extras["progress"][:, 0]

    @torch.no_grad()
    def encode(self, images: Tensor, view_mask: Tensor, ids: Tensor, text_mask: Tensor) -> Context:
        """The context. A view is encoded only for the rows that have it; no mask of it costs anything."""
        config = self.dm0.config
        batch = raw_batch(images, view_mask, ids, text_mask, images.new_zeros(len(ids), config.state_dim))
        return self.dm0.encode(batch, room=config.head.chunk_tokens)


def from_published(
    state_dict: Mapping[str, Tensor],
    *,
    image_size: int,
    patch_size: int,
    vision_heads: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    action_dim: int,
    chunk_size: int,
    precision: Precision = "float32",
    progress: bool = False,
) -> PublishedDM0:
    """Build the model that `state_dict` describes, and load it; all other dimensions are read from the shapes.

    The prefix `model.` of the names may be absent. Output layers are accepted and left out, and so are the progress
    linears of DM0-Prog unless `progress`. Tensors that have the right type already are shared with `state_dict`, not
    copied. `reference` reproduces the published dtypes: bfloat16 but for input and post-attention norms, the expert's
    final norm and the linears of actions and progress.
    Raises ValueError naming the tensors that are missing, unexpected or of another shape.
    """
    tensors = published_names(state_dict)
    config = config_of(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        head_dim,
        {
            "vision.image_size": image_size,
            "vision.patch_size": patch_size,
            "vision.heads": vision_heads,
            "llm.heads": num_heads,
            "llm.kv_heads": num_kv_heads,
            "action_dim": action_dim,
            "horizon": chunk_size,
            "progress_token": progress,
        },
    )
    with torch.device("meta"):
        dm0 = DM0(config)
    report = assign(dm0, tensors, precision)
    if not report.complete:
        raise ValueError(f"The checkpoint does not fit: {report.summary()}.")
    return PublishedDM0(dm0)
