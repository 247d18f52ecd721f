"""pi0 and pi0.5 in plain torch, written from a description of the published code; no part of the library is used.

One joint pass over prefix and suffix in every call, slots as they come, padding in place.
Dimensions: B rows, S slots, V views, L text tokens, T actions, H query heads, D head width.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

__all__ = ["FLOAT32", "ReferencePi0", "published_names", "random_tensors"]

VLM, TOP = "paligemma_with_expert.paligemma.model.", "paligemma_with_expert."
TOWER, LLM, EXPERT = VLM + "vision_tower.vision_model.", VLM + "language_model.", TOP + "gemma_expert.model."
EMBED, OUTPUT = LLM + "embed_tokens.weight", TOP + "paligemma.lm_head.weight"
HEADS, HEAD_DIM, TOWER_HEADS = 8, 16, 2
MASKED = -2.3819763e38
# Of the published bfloat16 model, by parts of names.
FLOAT32 = ("patch_embedding", "position_embedding", "input_layernorm", "post_attention_layernorm", "model.norm")
FLOAT32_BEGIN = ("action_", "state_", "time_")


def published_names(
    *, adaptive: bool, tower_layers: int, layers: int, shape: Mapping[str, int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the tensors of a file, with one name of the tied pair and the expert's unused output rows."""
    w, m, e, f = (shape[name] for name in ("width", "mlp", "expert", "expert_mlp"))
    t, tm, patch, a = (shape[name] for name in ("tower", "tower_mlp", "patch", "action"))
    q, kv = shape["heads"] * shape["head_dim"], shape["head_dim"]
    dense: dict[str, tuple[int, int]] = {"multi_modal_projector.linear": (w, t)}
    inner = TOWER.removeprefix(VLM)
    for i in range(tower_layers):
        layer = f"{inner}encoder.layers.{i}."
        dense |= {f"{layer}self_attn.{p}_proj": (t, t) for p in ("q", "k", "v", "out")}
        dense |= {layer + "mlp.fc1": (tm, t), layer + "mlp.fc2": (t, tm)}
    for name, size in dense.items():
        yield VLM + name + ".weight", size
        yield VLM + name + ".bias", size[:1]
    yield TOWER + "embeddings.patch_embedding.weight", (t, 3, patch, patch)
    yield TOWER + "embeddings.patch_embedding.bias", (t,)
    yield TOWER + "embeddings.position_embedding.weight", (shape["patches"], t)
    norms = [f"encoder.layers.{i}.layer_norm{n}" for i in range(tower_layers) for n in (1, 2)]
    for norm in (*norms, "post_layernorm"):
        yield f"{TOWER}{norm}.weight", (t,)
        yield f"{TOWER}{norm}.bias", (t,)
    for tower, width, mlp in ((LLM, w, m), (EXPERT, e, f)):
        for i in range(layers):
            layer = f"{tower}layers.{i}."
            yield layer + "self_attn.q_proj.weight", (q, width)
            yield layer + "self_attn.k_proj.weight", (kv, width)
            yield layer + "self_attn.v_proj.weight", (kv, width)
            yield layer + "self_attn.o_proj.weight", (width, q)
            yield layer + "mlp.gate_proj.weight", (mlp, width)
            yield layer + "mlp.up_proj.weight", (mlp, width)
            yield layer + "mlp.down_proj.weight", (width, mlp)
        inside = [f"layers.{i}.{n}" for i in range(layers) for n in ("input_layernorm", "post_attention_layernorm")]
        for norm in (*inside, "norm"):
            if adaptive and tower == EXPERT:
                yield f"{tower}{norm}.dense.weight", (3 * width, width)
                yield f"{tower}{norm}.dense.bias", (3 * width,)
            else:
                yield f"{tower}{norm}.weight", (width,)
    yield OUTPUT, (shape["vocabulary"], w)
    yield TOP + "gemma_expert.lm_head.weight", (shape["vocabulary"], e)
    linears = {"action_in_proj": (e, a), "action_out_proj": (a, e)}
    if adaptive:
        linears |= {"time_mlp_in": (e, e), "time_mlp_out": (e, e)}
    else:
        linears |= {"state_proj": (e, a), "action_time_mlp_in": (e, 2 * e), "action_time_mlp_out": (e, e)}
    for name, size in linears.items():
        yield name + ".weight", size
        yield name + ".bias", size[:1]


TINY = {
    "width": 48, "mlp": 64, "expert": 32, "expert_mlp": 40, "tower": 32, "tower_mlp": 48, "patch": 8, "patches": 16,
    "action": 5, "vocabulary": 40, "heads": HEADS, "head_dim": HEAD_DIM,
}  # fmt: skip


def random_tensors(adaptive: bool, seed: int = 0) -> dict[str, Tensor]:
    """A tiny file: 2 tower layers, 3 decoder layers, 8 heads; images of 32 px, 16 tokens a view."""
    generator = torch.Generator().manual_seed(seed)
    names = published_names(adaptive=adaptive, tower_layers=2, layers=3, shape=TINY)
    made = {}
    for name, size in names:
        scale = 0.3 if len(size) == 1 else math.prod(size[1:]) ** -0.5
        made[name] = scale * torch.randn(size, generator=generator)
    return made


def rms(x: Tensor) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """x [B, heads, S, D], positions [B, S]; cosines and sines are rounded to the type of x."""
    half = x.shape[-1] // 2
    frequency = 1e4 ** (-torch.arange(half) / half)
    angle = positions[:, None, :, None] * frequency
    cos, sin = (torch.cat([part, part], -1).to(x.dtype) for part in (angle.cos(), angle.sin()))
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class ReferencePi0:
    """`tensors` under published names, without the prefix `model.`; `state` is None for pi0.5.

    With `mixed` they are cast as the published PyTorch code runs in bfloat16.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, mixed: bool = False) -> None:
        def cast(name: str, tensor: Tensor) -> Tensor:
            wide = any(part in name for part in FLOAT32) or name.startswith(FLOAT32_BEGIN)
            return tensor.bfloat16() if mixed and not wide else tensor

        self.w = {name: cast(name, tensor) for name, tensor in tensors.items()}
        self.dtype = torch.bfloat16 if mixed else torch.float32
        self.adaptive = any(".input_layernorm.dense." in name for name in tensors)
        self.layers = len([name for name in tensors if name.startswith(EXPERT) and name.endswith("q_proj.weight")])
        self.table = self.w[EMBED] if EMBED in self.w else self.w[OUTPUT]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def views(self, images: Tensor) -> Tensor:
        """images [B, 3, S, S] -> [B, N, W]: transformers' SigLIP with its last norm, then the projector."""
        own = {name.removeprefix(TOWER): t for name, t in self.w.items() if name.startswith(TOWER)}
        patch, positions = own["embeddings.patch_embedding.weight"], own["embeddings.position_embedding.weight"]
        config = SiglipVisionConfig(
            hidden_size=patch.shape[0],
            intermediate_size=own["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=len([name for name in own if name.endswith("mlp.fc1.weight")]),
            num_attention_heads=TOWER_HEADS,
            image_size=math.isqrt(len(positions)) * patch.shape[-1],
            patch_size=patch.shape[-1],
            layer_norm_eps=1e-6,
            hidden_act="gelu_pytorch_tanh",
            vision_use_head=False,
            attn_implementation="eager",
        )
        model = SiglipVisionModel(config)
        parts = {
            name: part
            for name, part in model.named_modules()
            if name.rpartition(".")[2] in ("embeddings", "encoder", "post_layernorm")
        }
        x = images
        for short in ("embeddings", "encoder", "post_layernorm"):
            part = next(p for name, p in parts.items() if name.rpartition(".")[2] == short)
            values = {name.removeprefix(short + "."): t for name, t in own.items() if name.startswith(short + ".")}
            values |= {n: b for n, b in part.named_buffers()}
            if short == "encoder":
                x = torch.func.functional_call(part, values, (), {"inputs_embeds": x.to(self.dtype)}).last_hidden_state
            else:
                x = torch.func.functional_call(part, values, (x,))
        return self.linear(VLM + "multi_modal_projector.linear", x)

    def velocity(
        self,
        images: Tensor,
        view_mask: Tensor,
        ids: Tensor,
        text_mask: Tensor,
        state: Tensor | None,
        x: Tensor,
        t: Tensor,
    ) -> Tensor:
        """As PublishedPi0.velocity, with gradients."""
        views = [self.views(images[:, i]).to(self.dtype) for i in range(images.shape[1])]
        text = self.table[ids] * math.sqrt(self.table.shape[1])
        prefix = torch.cat([*views, text.to(self.dtype)], 1)
        seen = [mask[:, None].expand(-1, views[0].shape[1]) for mask in view_mask.T]
        suffix, condition, blocks = self.suffix(state, x, t)
        valid = torch.cat([*seen, text_mask, torch.ones(len(ids), suffix.shape[1], dtype=torch.bool)], 1)
        block = torch.cat([torch.zeros(prefix.shape[1]), blocks]).long()
        visible = (block[None, :] <= block[:, None]) & valid[:, None, :] & valid[:, :, None]
        mask = torch.where(visible, 0.0, MASKED)[:, None]
        positions = valid.cumsum(1) - 1
        sides = [prefix, suffix.to(self.dtype)]
        for i in range(self.layers):
            sides = self.layer(i, sides, mask, positions, condition)
        out = self.norm(EXPERT + "norm", sides[1], condition)[0]
        return self.linear("action_out_proj", out[:, -x.shape[1] :].float())

    def suffix(self, state: Tensor | None, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(tokens, condition of the adaptive norms, block number of each)."""
        actions = self.linear("action_in_proj", x)
        half = actions.shape[-1] // 2
        period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, half, dtype=torch.float64)
        angle = t.double()[..., None] * 2 * math.pi / period
        code = torch.cat([angle.sin(), angle.cos()], -1).to(t.dtype)
        if self.adaptive:
            condition = F.silu(self.linear("time_mlp_out", F.silu(self.linear("time_mlp_in", code))))
            return actions, condition, torch.ones(actions.shape[1])
        code = code[:, None].expand_as(actions)
        hidden = F.silu(self.linear("action_time_mlp_in", torch.cat([actions, code], -1)))
        tokens = self.linear("action_time_mlp_out", hidden)
        assert state is not None
        one = self.linear("state_proj", state)[:, None]
        return torch.cat([one, tokens], 1), None, torch.tensor([1.0, *[2.0] * x.shape[1]])

    def norm(self, name: str, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if name + ".dense.weight" not in self.w:
            return (rms(x) * (1 + self.w[name + ".weight"].float())).to(x.dtype), None
        assert condition is not None
        rows = self.linear(name + ".dense", condition)
        rows = rows[:, None] if rows.ndim == 2 else rows
        scale, shift, gate = rows.chunk(3, -1)
        return (rms(x) * (1 + scale) + shift).to(x.dtype), gate.to(x.dtype)

    def layer(
        self, i: int, sides: list[Tensor], mask: Tensor, positions: Tensor, condition: Tensor | None
    ) -> list[Tensor]:
        names = [f"{LLM}layers.{i}.", f"{EXPERT}layers.{i}."]
        normed = [self.norm(n + "input_layernorm", s, condition) for n, s in zip(names, sides, strict=True)]
        q, k, v = (
            torch.cat(
                [
                    self.linear(f"{n}self_attn.{p}_proj", h).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
                    for n, (h, _) in zip(names, normed, strict=True)
                ],
                2,
            )
            for p in ("q", "k", "v")
        )
        q, k = rotate(q, positions), rotate(k, positions)
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
        scores = q @ k.transpose(2, 3) * HEAD_DIM**-0.5 + mask
        attended = (scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v).transpose(1, 2).flatten(2)
        cut, done = sides[0].shape[1], []
        for n, x, (_, gate), part in zip(names, sides, normed, (attended[:, :cut], attended[:, cut:]), strict=True):
            branch = self.linear(n + "self_attn.o_proj", part)
            x = x + (branch if gate is None else branch * gate)
            h, gate = self.norm(n + "post_attention_layernorm", x, condition)
            up = F.gelu(self.linear(n + "mlp.gate_proj", h), approximate="tanh") * self.linear(n + "mlp.up_proj", h)
            branch = self.linear(n + "mlp.down_proj", up)
            done.append(x + (branch if gate is None else branch * gate))
        return done

    def sample_actions(
        self,
        images: Tensor,
        view_mask: Tensor,
        ids: Tensor,
        text_mask: Tensor,
        state: Tensor | None,
        noise: Tensor,
        steps: int = 10,
    ) -> Tensor:
        """As PublishedPi0.sample_actions; flow time is added up as the published code does."""
        x, t, dt = noise, torch.tensor(1.0), torch.tensor(-1.0 / steps)
        while t >= -dt / 2:
            x = x + dt * self.velocity(images, view_mask, ids, text_mask, state, x, t.expand(len(ids)))
            t = t + dt
        return x
