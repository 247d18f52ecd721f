"""OpenVLA-OFT in plain torch, written from a description of the published code; no part of the library is used.

Dimensions: B rows, S tokens of the whole sequence, W width of the language model, D width of a tower, H horizon.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ACTIONS", "HEADS", "HORIZON", "STATE", "TOWER_HEADS", "VIEWS", "ReferenceOFT", "adapted", "random_files"]

HEADS, TOWER_HEADS, VIEWS, HORIZON, ACTIONS, STATE = 4, 2, 2, 3, 2, 5
WIDTH, MLP, LAYERS, WORDS = 32, 48, 3, 29900
TOWERS = {"featurizer": (16, 32, 5), "fused_featurizer": (24, 40, 0)}  # width, MLP, prefix tokens
TOWER_LAYERS, PATCH, GRID = 3, 7, 4
Files = dict[str, dict[str, Tensor]]


def tower_shapes(tower: str, film: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, mlp, prefix = TOWERS[tower]
    stem = f"vision_backbone.{tower}."
    yield stem + "pos_embed", (1, GRID**2, width)
    yield stem + "patch_embed.proj.weight", (width, 3, PATCH, PATCH)
    yield stem + "patch_embed.proj.bias", (width,)
    if prefix:
        yield stem + "cls_token", (1, 1, width)
        yield stem + "reg_token", (1, prefix - 1, width)
    linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (mlp, width)}
    linears["mlp.fc2"] = (width, mlp)
    for i in range(TOWER_LAYERS):
        block = f"{stem}blocks.{i}."
        inner = block + ("block." if film else "")
        for name, shape in linears.items():
            yield f"{inner}{name}.weight", shape
            yield f"{inner}{name}.bias", shape[:1]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            yield inner + name, (width,)
        for name in ("ls1.scale_factor", "ls2.scale_factor") if prefix else ():
            yield inner + name, (width,)
        for name in ("scale", "shift") if film else ():
            yield f"{block}{name}.weight", (width, WIDTH)
            yield f"{block}{name}.bias", (width,)
    yield stem + "norm.weight", (width,)
    yield stem + "norm.bias", (width,)
    if not prefix and not film:
        yield stem + "attn_pool.latent", (1, 1, width)


def other_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    inputs = sum(width for width, _, _ in TOWERS.values())
    for name, shape in {"fc1": (4 * inputs, inputs), "fc2": (WIDTH, 4 * inputs), "fc3": (WIDTH, WIDTH)}.items():
        yield f"projector.{name}.weight", shape
        yield f"projector.{name}.bias", shape[:1]
    yield "language_model.model.embed_tokens.weight", (WORDS, WIDTH)
    for i in range(LAYERS):
        layer = f"language_model.model.layers.{i}."
        for name in "qkvo":
            yield f"{layer}self_attn.{name}_proj.weight", (WIDTH, WIDTH)
        for name, shape in {"gate": (MLP, WIDTH), "up": (MLP, WIDTH), "down": (WIDTH, MLP)}.items():
            yield f"{layer}mlp.{name}_proj.weight", shape
        yield layer + "input_layernorm.weight", (WIDTH,)
        yield layer + "post_attention_layernorm.weight", (WIDTH,)
    yield "language_model.model.norm.weight", (WIDTH,)
    yield "language_model.lm_head.weight", (WORDS, WIDTH)


def head_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    wide = ACTIONS * WIDTH
    linears = {"fc1": (WIDTH, wide), "fc2": (ACTIONS, WIDTH)}
    linears |= {f"mlp_resnet_blocks.{k}.ffn.1": (WIDTH, WIDTH) for k in range(2)}
    norms = {"layer_norm1": (wide,), "layer_norm2": (WIDTH,)}
    norms |= {f"mlp_resnet_blocks.{k}.ffn.0": (WIDTH,) for k in range(2)}
    for name, shape in {**linears, **norms}.items():
        yield f"module.model.{name}.weight", shape
        yield f"module.model.{name}.bias", shape[:1]


def random_files(film: bool = False, seed: int = 0) -> Files:
    """{"state": the model, "action_head", "proprio_projector", and with FiLM "vision_backbone"}, by published names."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shapes: Iterator[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
        made = {}
        for name, shape in shapes:
            gain = len(shape) == 1 and ("norm" in name or ".ffn.0." in name or "scale_factor" in name)
            scale = 0.3 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
            made[name] = scale * torch.randn(shape, generator=generator) + float(gain and not name.endswith("bias"))
        return made

    state = draw(other_shapes())
    for tower in TOWERS:
        state |= draw(tower_shapes(tower, film=False))
    projector = {"fc1": (WIDTH, STATE), "fc2": (WIDTH, WIDTH)}
    shapes = {
        f"module.{n}.{p}": s if p == "weight" else s[:1] for n, s in projector.items() for p in ("weight", "bias")
    }
    files = {"state": state, "action_head": draw(head_shapes()), "proprio_projector": draw(iter(shapes.items()))}
    if film:
        towers = {name: t for tower in TOWERS for name, t in draw(tower_shapes(tower, film=True)).items()}
        files["vision_backbone"] = {f"module.{name}": tensor for name, tensor in towers.items()}
    return files


def adapted(tensors: Mapping[str, Tensor], rank: int, seed: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(file with adapters beside the linears and convolutions of blocks, the tensors that they amount to)."""
    generator = torch.Generator().manual_seed(seed)
    apart, merged = {}, dict(tensors)
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if not re_adapted(stem):
            apart[name] = tensor
            continue
        apart[f"{stem}.base_layer.{last}"] = tensor
        if last == "bias":
            continue
        down = 0.1 * torch.randn(rank, *tensor.shape[1:], generator=generator)
        up = torch.randn(len(tensor), rank, *[1] * (tensor.ndim - 2), generator=generator)
        apart |= {f"{stem}.lora_A.default.weight": down, f"{stem}.lora_B.default.weight": up}
        sides = "or,ri->oi" if tensor.ndim == 2 else "or,rikl->oikl"
        merged[name] = tensor + min(rank, 16) / rank * torch.einsum(sides, up.flatten(1), down)
    return apart, merged


def re_adapted(stem: str) -> bool:
    return stem.endswith((".qkv", ".attn.proj", ".fc1", ".fc2", "patch_embed.proj"))


class ReferenceOFT:
    """`files` as of `random_files`. With `causal`, tokens see only those before them, which the published model does
    not."""

    def __init__(self, files: Files, *, causal: bool = False, eps: float = 1e-6) -> None:
        self.w = dict(files["state"])
        for name, tensor in files.get("vision_backbone", {}).items():
            self.w[name.removeprefix("module.")] = tensor
        for part in ("action_head", "proprio_projector"):
            self.w |= {f"{part}.{name.removeprefix('module.')}": tensor for name, tensor in files[part].items()}
        self.film, self.causal, self.eps = "vision_backbone" in files, causal, eps

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], eps)

    def tower(self, tower: str, pixels: Tensor, words: Tensor) -> Tensor:
        """Patches [B, N, D] behind the second-to-last block."""
        stem, prefix = f"vision_backbone.{tower}.", TOWERS[tower][2]
        x = F.conv2d(pixels, self.w[stem + "patch_embed.proj.weight"], self.w[stem + "patch_embed.proj.bias"], PATCH)
        x = x.flatten(2).transpose(1, 2) + self.w[stem + "pos_embed"]
        if prefix:
            front = [self.w[stem + name].expand(len(x), -1, -1) for name in ("cls_token", "reg_token")]
            x = torch.cat([*front, x], 1)
        for i in range(TOWER_LAYERS - 1):
            block = f"{stem}blocks.{i}."
            inner = block + ("block." if self.film else "")
            q, k, v = self.linear(inner + "attn.qkv", self.layer_norm(inner + "norm1", x, 1e-6)).chunk(3, -1)
            q, k, v = (t.unflatten(-1, (TOWER_HEADS, -1)).transpose(1, 2) for t in (q, k, v))
            seen = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1) @ v
            x = x + self.w.get(inner + "ls1.scale_factor", 1) * self.linear(
                inner + "attn.proj", seen.transpose(1, 2).flatten(2)
            )
            if self.film:
                x = (
                    x * (1 + self.linear(block + "scale", words)[:, None])
                    + self.linear(block + "shift", words)[:, None]
                )
            h = F.gelu(self.linear(inner + "mlp.fc1", self.layer_norm(inner + "norm2", x, 1e-6)))
            x = x + self.w.get(inner + "ls2.scale_factor", 1) * self.linear(inner + "mlp.fc2", h)
        return x[:, prefix:]

    def patches(self, pixels: Tensor, words: Tensor) -> Tensor:
        """[B, 6 * views, size, size] -> [B, tokens of all views, W]."""
        found = []
        for view in pixels.split(6, dim=1):
            both = zip(TOWERS, view.split(3, dim=1), strict=True)
            x = torch.cat([self.tower(tower, part, words) for tower, part in both], -1)
            x = F.gelu(self.linear("projector.fc2", F.gelu(self.linear("projector.fc1", x))))
            found.append(self.linear("projector.fc3", x))
        return torch.cat(found, 1)

    def rms(self, name: str, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.w[name + ".weight"]

    def decode(self, x: Tensor, valid: Tensor) -> Tensor:
        """Normalised states of all tokens; positions are 0 ... S - 1."""
        size = x.shape[1]
        half = WIDTH // HEADS // 2
        angle = torch.arange(size)[:, None] * 1e4 ** (-torch.arange(half) / half)
        cos, sin = (torch.cat([part, part], -1) for part in (angle.cos(), angle.sin()))
        mask = torch.zeros(len(x), 1, size, size).masked_fill(~valid[:, None, None], -math.inf)
        if self.causal:
            mask = mask.masked_fill(torch.ones(size, size).triu(1).bool(), -math.inf)
        for i in range(LAYERS):
            layer = f"language_model.model.layers.{i}."
            h = self.rms(layer + "input_layernorm", x)
            q, k, v = (
                self.linear(f"{layer}self_attn.{p}_proj", h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in "qkv"
            )
            q, k = (t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin for t in (q, k))
            seen = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + mask).softmax(-1) @ v
            x = x + self.linear(layer + "self_attn.o_proj", seen.transpose(1, 2).flatten(2))
            h = self.rms(layer + "post_attention_layernorm", x)
            h = F.silu(self.linear(layer + "mlp.gate_proj", h)) * self.linear(layer + "mlp.up_proj", h)
            x = x + self.linear(layer + "mlp.down_proj", h)
        return self.rms("language_model.model.norm", x)

    def forward(self, ids: Tensor, mask: Tensor, slots: Tensor, pixels: Tensor, proprio: Tensor | None) -> Tensor:
        """As PublishedOFT.forward, with gradients."""
        text = self.w["language_model.model.embed_tokens.weight"][ids] * ~slots[..., None]
        words = ~slots  # padding included
        mean = (text * words[..., None]).sum(1) / words.sum(1, keepdim=True)
        front = [self.patches(pixels, mean)]
        if proprio is not None:
            hidden = F.gelu(self.linear("proprio_projector.fc1", proprio))
            front.append(self.linear("proprio_projector.fc2", hidden)[:, None])
        tokens = torch.cat(front, 1)
        x = torch.cat([text[:, :1], tokens, text[:, 1:]], 1)
        valid = torch.cat([mask[:, :1], mask.new_ones(tokens.shape[:2]), mask[:, 1:]], 1).bool()
        states = self.decode(x, valid)
        rows = []
        for row, chosen in enumerate(slots):
            first = tokens.shape[1] + int(chosen.nonzero()[0])
            rows.append(states[row, first - 1 : first - 1 + HORIZON * ACTIONS])
        return self.head(torch.stack(rows))

    def head(self, states: Tensor) -> Tensor:
        """[B, H * A, W] -> [B, H, A]."""
        top = "action_head.model."
        x = states.reshape(len(states), HORIZON, -1)
        x = F.relu(self.linear(top + "fc1", self.layer_norm(top + "layer_norm1", x, 1e-5)))
        for k in range(2):
            block = f"{top}mlp_resnet_blocks.{k}.ffn."
            x = x + F.relu(self.linear(block + "1", self.layer_norm(block + "0", x, 1e-5)))
        return self.linear(top + "fc2", self.layer_norm(top + "layer_norm2", x, 1e-5))
