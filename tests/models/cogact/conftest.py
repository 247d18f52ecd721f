"""Tiny oracles from transformers, the parts of a published file that hold the same weights, and a tiny CogACT."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config
from visuomotor.models.cogact import ActionModel, ActionModelConfig, CogACT
from visuomotor.models.raw import raw_batch
from visuomotor.nn.vit import ViTConfig
from visuomotor.nn.vit_names import from_transformers

DINO = ViTConfig(
    image_size=28, patch_size=7, width=16, layers=3, heads=2, mlp_width=32, class_token=True, registers=4, layer_scale=1
)
SIGLIP = ViTConfig(image_size=28, patch_size=7, width=24, layers=3, heads=2, mlp_width=40)


@dataclass
class World:
    """The same weights as transformers' models and as a published file."""

    dino: Dinov2WithRegistersModel
    siglip: SiglipVisionModel
    projector: nn.Sequential
    llama: LlamaModel
    action: ActionModel
    parts: dict[str, dict[str, Tensor]]


@pytest.fixture(scope="session")
def world() -> World:
    torch.manual_seed(0)
    common = {"num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    dino = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(hidden_size=16, mlp_ratio=2, **common)).eval()
    siglip = SiglipVisionModel(
        SiglipVisionConfig(hidden_size=24, intermediate_size=40, hidden_act="gelu", **common)
    ).eval()
    llama = LlamaModel(
        LlamaConfig(
            vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, rms_norm_eps=1e-5, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    layers = [nn.Linear(40, 160), nn.GELU(), nn.Linear(160, 32), nn.GELU(), nn.Linear(32, 32)]
    projector = nn.Sequential(*layers)
    action = ActionModel(ActionModelConfig(width=16, depth=2, heads=2, token_size=32, horizon=4))
    for module in (dino, siglip, projector, llama, action):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.2)
    towers = {
        **{f"dino_featurizer.{n}": t for n, t in from_transformers(dino.state_dict(), DINO)[0].items()},
        **{f"siglip_featurizer.{n}": t for n, t in from_transformers(siglip.state_dict(), SIGLIP)[0].items()},
        "siglip_featurizer.attn_pool.latent": torch.zeros(1, 1, 24),
    }
    parts = {
        "vision_backbone": towers,
        "projector": {f"projector.{name}": tensor for name, tensor in projector.state_dict().items()},
        "llm_backbone": {f"llm.model.{name}": tensor for name, tensor in llama.state_dict().items()}
        | {"llm.lm_head.weight": torch.zeros(60, 32)},
        "action_model": {f"net.{name}": tensor for name, tensor in action.state_dict().items()},
    }
    return World(dino=dino, siglip=siglip, projector=projector, llama=llama, action=action, parts=parts)


def read(
    backbone: DecoderBackbone,
    dinov2: Tensor,
    siglip: Tensor,
    ids: Tensor,
    valid: Tensor,
    layers: tuple[int, ...] = (-1,),
) -> Context:
    """What a head reads of raw tensors: states [B, 1, W] of the last valid token, and DINOv2's prefix tokens."""
    pixels = torch.cat([dinov2, siglip], dim=1)[:, None]
    batch = raw_batch(pixels, valid[:, :1], ids, valid)
    return backbone.observe(batch, ContextRequest(layers=layers, at="prompt", features=("prefix",)))


def rows_of(batch: Batch, *chosen: int) -> Batch:
    """Some rows of a batch, without the padding of their texts."""
    index = torch.tensor(chosen)
    rows = batch.map(lambda t: t[index])
    length = int(rows.text_valid.sum(1).max())
    texts = {name: getattr(rows, name)[:, :length] for name in ("text_ids", "text_valid", "text_kind", "text_loss")}
    roles = [role for role, there in zip(rows.images, rows.present.any(0).tolist(), strict=True) if there]
    return replace(rows, **texts, images={role: rows.images[role] for role in roles})


TINY = {
    "dinov2.image_size": 28,
    "dinov2.patch_size": 7,
    "siglip.image_size": 28,
    "siglip.patch_size": 7,
    "dinov2.width": 16,
    "dinov2.layers": 3,
    "dinov2.mlp_width": 24,
    "siglip.width": 12,
    "siglip.layers": 3,
    "siglip.mlp_width": 16,
    "llm.vocab_size": 40,
    "llm.width": 24,
    "llm.mlp_width": 32,
    "llm.layers": 2,
    "llm.heads": 2,
    "llm.kv_heads": 2,
    "llm.head_dim": 12,
    "action_model.width": 16,
    "action_model.depth": 2,
    "action_model.heads": 2,
    "action_model.action_dim": 3,
    "action_model.horizon": 4,
    "action_model.repeated_diffusion_steps": 2,
}


@pytest.fixture
def make_model() -> Callable[..., CogACT]:
    def make(**overrides: object) -> CogACT:
        torch.manual_seed(0)
        model = CogACT(make_config("cogact", "nano", **{**TINY, **overrides}))
        nn.init.normal_(model.head.model.final_layer.linear.weight, std=0.2)  # a fresh one predicts zeros
        return model

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(size: int = 3, views: int = 1, length: int = 9, seed: int = 0) -> Batch:
        """Row 1 is two tokens shorter."""
        generator = torch.Generator().manual_seed(seed)
        valid = torch.ones(size, length, dtype=torch.bool)
        valid[1:2, -2:] = False
        images = {
            f"camera{i}": torch.randint(0, 256, (size, 28, 28, 3), generator=generator, dtype=torch.uint8)
            for i in range(views)
        }
        return Batch(
            images=images,
            image_valid=torch.ones(size, views, dtype=torch.bool),
            text_ids=torch.randint(3, 40, (size, length), generator=generator),
            text_valid=valid,
            text_kind=valid * int(TextKind.PROMPT),
            text_loss=torch.zeros_like(valid),
            state=torch.zeros(size, 5),
            actions=torch.randn(size, 4, 3, generator=generator),
            action_valid=torch.ones(size, 4, 3, dtype=torch.bool),
            embodiment=torch.zeros(size, dtype=torch.long),
            source=torch.zeros(size, dtype=torch.long),
        )

    return make
