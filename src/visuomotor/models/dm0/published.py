"""A DM0 behind plain tensors and under the published names: what the published code computes, at any size."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.models.dm0.model import DM0, Prefix
from visuomotor.models.dm0.tensors import Precision, assign, config_of, published_names
from visuomotor.nn.decoder import KVCache
from visuomotor.nn.masks import causal_attention, valid_first

__all__ = ["PublishedDM0", "from_published"]


class PublishedDM0(nn.Module):
    """A DM0 fed with normalised images and masks per row, as the published code is."""

    def __init__(self, dm0: DM0) -> None:
        super().__init__()
        self.dm0 = dm0

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
        return self.dm0.denoise_all(prefix, noise[:, None], steps).actions[:, 0]

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
        prefix.progress = progress.reshape(-1)
        sampled = self.dm0.denoise_all(prefix, noise[:, None], steps)
        return sampled.actions[:, 0], sampled.extras["progress"][:, 0]

    @torch.no_grad()
    def encode(self, images: Tensor, view_mask: Tensor, ids: Tensor, text_mask: Tensor) -> Prefix:
        """The prefix. A view is encoded only for the rows that have it; no mask of it costs anything."""
        config, network = self.dm0.config, self.dm0.model
        batch, views = view_mask.shape
        if images.shape[:2] != (batch, views) or ids.shape != text_mask.shape or ids.shape[0] != batch:
            raise ValueError(
                f"images {tuple(images.shape)}, view_mask {tuple(view_mask.shape)}, ids {tuple(ids.shape)} and "
                f"text_mask {tuple(text_mask.shape)} disagree; expected [B, V, 3, H, W], [B, V], [B, L] and [B, L]."
            )
        per_view = config.vision.tokens(images.shape[-1])
        text = network.llm.embed_tokens(ids)
        tokens = text.new_zeros(batch, views, per_view, config.llm.width)
        view_mask, text_mask = view_mask.bool(), text_mask.bool()
        if bool(view_mask.any()):
            tokens[view_mask] = network.view_tokens([images[view_mask]]).to(text.dtype)
        valid = torch.cat([view_mask.repeat_interleave(per_view, dim=1), text_mask], dim=1)
        order = valid_first(valid)[:, : max(1, int(valid.sum(1).max()))]
        x = torch.cat([tokens.flatten(1, 2), text], dim=1)
        x = x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
        valid = valid.gather(1, order)
        cache = KVCache(config.llm, batch, x.shape[1] + config.chunk_tokens, like=x)
        network.llm(x, causal_attention(valid), cache=cache, keys_only=True)
        cache.length = x.shape[1]
        state = x.new_zeros(batch, config.state_dim)
        return Prefix(cache=cache, labels=torch.zeros_like(order), valid=valid, state=state)


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
