"""DM0 as it is plainly written with transformers' habits, from the same weights, to compare with: the slow way.

Every camera is encoded by a call of its own, absent ones too, which a mask hides; attention is a softmax over a
materialised mask, with keys and values repeated for each query head; each denoising step concatenates cached and new
keys, layer by layer, and asks the host whether it was the last. Nothing else is made slow.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.models.dm0 import DM0
from visuomotor.nn.decoder import Decoder, RMSNorm
from visuomotor.nn.flow import time_code
from visuomotor.nn.rotary import decoder_rotation, grid_rotation, rotate_halves, rotate_pairs

HIDDEN = -2.3819763e38


def norm(module: RMSNorm, x: Tensor) -> Tensor:
    wide = x.float()
    return module.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + module.eps)).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [B, H, S, D] on k, v [B, N, P, D] -> [B, S, H * D]."""
    groups = q.shape[1] // k.shape[1]
    k, v = (t[:, :, None].expand(-1, -1, groups, -1, -1).reshape(t.shape[0], -1, *t.shape[2:]) for t in (k, v))
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


class EagerDM0(nn.Module):
    """`sample` of a DM0 without token convolution and state token."""

    def __init__(self, model: DM0) -> None:
        super().__init__()
        self.config, self.backbone, self.head = model.config, model.backbone, model.head

    @torch.no_grad()
    def sample(
        self, images: Tensor, view_mask: Tensor, ids: Tensor, text_mask: Tensor, noise: Tensor, steps: int
    ) -> Tensor:
        """images float[B, V, 3, H, W] in [-1, 1], view_mask bool[B, V], ids and text_mask [B, L], noise [B, T, A]."""
        vision, llm, head = self.backbone.vision, self.backbone.llm, self.head
        views = [vision.projector(self.tower(images[:, v])) for v in range(images.shape[1])]
        valid = torch.cat([view_mask.repeat_interleave(views[0].shape[1], dim=1), text_mask], dim=1)
        x = torch.cat([*views, llm.embed_tokens(ids)], dim=1)
        positions = valid.long().cumsum(1) - 1
        length = valid.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        seen = causal & valid[:, None] & valid[:, :, None]
        cache: list[tuple[Tensor, Tensor]] = []
        self.tower_pass(llm, x, positions, torch.where(seen, 0.0, HIDDEN)[:, None], cache, keep=True)
        horizon = noise.shape[1]
        suffix = valid.sum(1, keepdim=True) + torch.arange(horizon)
        seen = torch.cat([valid[:, None].expand(-1, horizon, -1), torch.ones(len(ids), horizon, horizon).bool()], dim=2)
        mask = torch.where(seen, 0.0, HIDDEN)[:, None]
        actions, step = noise, -1.0 / steps
        time = torch.ones(len(ids))
        while time[0].item() >= -step / 2:
            code = time_code(time, self.config.expert.width)[:, None].expand(-1, horizon, -1)
            hidden = head.action_time_mlp_in(torch.cat([head.action_in_proj(actions), code], dim=-1))
            tokens = head.action_time_mlp_out(F.silu(hidden))
            states = self.tower_pass(head.expert, tokens, suffix, mask, cache, keep=False)
            actions = actions + step * head.action_out_proj(states)
            time = time + step
        return actions

    def tower_pass(
        self,
        decoder: Decoder,
        x: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: list[tuple[Tensor, Tensor]],
        *,
        keep: bool,
    ) -> Tensor:
        """All layers; with `keep` their keys and values are appended to the cache, otherwise it is read."""
        config = decoder.config
        rotation = decoder_rotation(positions, config.head_dim, config.rope_theta, x.dtype)
        for index, layer in enumerate(decoder.layers):
            own = layer.self_attn  # type: ignore[union-attr]
            normed = norm(layer.input_layernorm, x)  # type: ignore[arg-type]
            q, k, v = (
                projection(normed).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
                for projection in (own.q_proj, own.k_proj, own.v_proj)  # type: ignore[union-attr]
            )
            q = rotate_halves(norm(own.q_norm, q), rotation)  # type: ignore[union-attr,arg-type]
            k = rotate_halves(norm(own.k_norm, k), rotation)  # type: ignore[union-attr,arg-type]
            if keep:
                cache.append((k, v))
            else:
                k, v = torch.cat([cache[index][0], k], dim=2), torch.cat([cache[index][1], v], dim=2)
            x = x + own.o_proj(attention(q, k, v, mask))  # type: ignore[union-attr,operator]
            normed = norm(layer.post_attention_layernorm, x)  # type: ignore[arg-type]
            mlp = layer.mlp  # type: ignore[union-attr]
            x = x + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))  # type: ignore[union-attr,operator]
        return norm(decoder.norm, x)

    def tower(self, images: Tensor) -> Tensor:
        """One camera's images [B, 3, H, W] through the Perception Encoder."""
        tower = self.backbone.vision.tower
        side = images.shape[-1] // tower.config.patch_size
        x = tower.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1) + tower.positional_embedding
        x = tower.ln_pre(x)
        rotation = grid_rotation(side, tower.config.width // tower.config.heads, device=x.device)
        for block in tower.transformer.resblocks:
            qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)  # type: ignore[operator]
            q, k, v = (t.unflatten(-1, (tower.config.heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
            mixed = attention(rotate_pairs(q, rotation), rotate_pairs(k, rotation), v, None)
            x = x + block.attn.out_proj(mixed) * block.ls_1.gamma  # type: ignore[operator]
            hidden = F.gelu(block.mlp.c_fc(block.ln_2(x)))  # type: ignore[operator]
            x = x + block.mlp.c_proj(hidden) * block.ls_2.gamma  # type: ignore[operator]
        x = x[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        x = tower.vit_downsampler1(x)
        if tower.config.downsamples == 2:
            x = tower.vit_downsampler2(x)
        return x.flatten(2).transpose(1, 2)
