"""Published DM0 checkpoints: their weights into our model, and the model behind plain tensors."""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.dm0.model import DM0, Prefix
from visuomotor.nn.decoder import KVCache
from visuomotor.nn.flow import euler
from visuomotor.nn.masks import causal_attention, valid_first

__all__ = ["PublishedDM0", "from_published"]

# In published files but never read by the network: output layers, and the progress linears of DM0-Prog.
_UNUSED = re.compile(r"^(lm_head\.|model\.action_expert\.lm_head\.|model\.progress_(in|out)_proj\.)")
_FLOAT32 = re.compile(r"input_layernorm|post_attention_layernorm|model\.norm|^model\.action_(in|out|time)")


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
        return euler(lambda x, t: self.dm0.denoise(prefix, x, t), noise[:, None], steps)[:, 0]

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
        tokens = text.new_zeros(batch, views, per_view, config.width)
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
    precision: Literal["float32", "reference"] = "float32",
) -> PublishedDM0:
    """Build the model that `state_dict` describes, and load it; all other dimensions are read from the shapes.

    Output layers and the progress linears are accepted and left out. Tensors that have the right type already are
    shared with `state_dict`, not copied. `reference` reproduces the published dtypes:
    bfloat16 but for input and post-attention norms, the expert's final norm and the four action linears.
    Raises ValueError naming the tensors that are missing, unexpected or of another shape.
    """
    if precision not in ("float32", "reference"):
        raise ValueError(f"precision is {precision!r}, but must be 'float32' or 'reference'.")
    tensors = {name: tensor for name, tensor in state_dict.items() if not _UNUSED.match(name)}
    tower, llm, expert = "model.mm_vision_tower.vision_tower.", "model.llm.", "model.action_expert.model."

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"Not a published DM0 checkpoint: {name} is missing among {len(tensors)} tensors.")
        return tuple(tensors[name].shape)

    def depth(stem: str) -> int:
        found = [int(m[1]) for name in tensors if (m := re.match(re.escape(stem) + r"(\d+)\.", name))]
        return max(found, default=-1) + 1

    config = DM0Config(
        image_size=image_size,
        patch_size=patch_size,
        num_views=3,
        vision_width=shape(tower + "conv1.weight")[0],
        vision_layers=depth(tower + "transformer.resblocks."),
        vision_heads=vision_heads,
        vision_mlp_width=shape(tower + "transformer.resblocks.0.mlp.c_fc.weight")[0],
        vision_layer_scale=0.1,
        vision_downsamples=2,
        vocab_size=shape(llm + "embed_tokens.weight")[0],
        width=shape(llm + "embed_tokens.weight")[1],
        mlp_width=shape(llm + "layers.0.mlp.gate_proj.weight")[0],
        expert_width=shape(expert + "norm.weight")[0],
        expert_mlp_width=shape(expert + "layers.0.mlp.gate_proj.weight")[0],
        layers=depth(llm + "layers."),
        heads=num_heads,
        kv_heads=num_kv_heads,
        head_dim=head_dim,
        action_dim=action_dim,
        state_dim=action_dim,
        horizon=chunk_size,
        gradient_decoupling=False,
        noise_draws=1,
        mask_padded=False,
        token_convolution=0,
        action_start_id=None,
    )
    with torch.device("meta"):
        dm0 = DM0(config)
    ours = {name: tuple(tensor.shape) for name, tensor in dm0.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"missing {name}" for name in sorted(ours.keys() - theirs.keys())]
    wrong += [f"unexpected {name}" for name in sorted(theirs.keys() - ours.keys())]
    wrong += [
        f"{n} is {theirs[n]}, expected {ours[n]}" for n in sorted(ours.keys() & theirs.keys()) if ours[n] != theirs[n]
    ]
    if wrong:
        raise ValueError(f"The checkpoint does not fit ({len(wrong)} tensors): {'; '.join(wrong[:5])}.")
    dm0.load_state_dict({name: tensor.to(_dtype(name, precision)) for name, tensor in tensors.items()}, assign=True)
    return PublishedDM0(dm0)


def _dtype(name: str, precision: str) -> torch.dtype:
    return torch.float32 if precision == "float32" or _FLOAT32.search(name) else torch.bfloat16
