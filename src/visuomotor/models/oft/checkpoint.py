"""Published tensors of OpenVLA-OFT: names both ways, the configuration that shapes tell, raw inputs, and folders.

The model is that of transformers' OpenVLA; action head, state projector and, with FiLM, the towers are files of their
own, whose names begin with `module.`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.contract import Batch, TextKind
from visuomotor.models.adapters import merged_adapters
from visuomotor.models.assign import assign
from visuomotor.models.cogact.convert import vlm_config_of
from visuomotor.models.cogact.tensors import BACKBONE
from visuomotor.models.names import NameTable
from visuomotor.models.oft.config import LLAMA2_HF, OFTConfig
from visuomotor.models.oft.model import OFT
from visuomotor.models.raw import raw_batch
from visuomotor.models.report import TensorReport
from visuomotor.nn.vit_names import from_timm
from visuomotor.text.cogact_prompt import EMPTY, END

__all__ = ["NAMES", "Precision", "PublishedOFT", "from_published", "load", "published_tensors", "written_tensors"]

Precision = Literal["float32", "reference", "file"]
DINO, SIGLIP, HEAD, STATE = (
    "backbone.vision.dinov2.",
    "backbone.vision.siglip.",
    "head.model.",
    "head.proprio_projector.",
)
TABLE = {
    DINO: "vision_backbone.featurizer.",
    SIGLIP: "vision_backbone.fused_featurizer.",
    "backbone.vision.projector.0.": "projector.fc1.",
    "backbone.vision.projector.2.": "projector.fc2.",
    "backbone.vision.projector.4.": "projector.fc3.",
    "backbone.llm.": "language_model.model.",
    HEAD: "action_head.model.",
    STATE: "proprio_projector.",
}
UNUSED = re.compile(r"^language_model\.lm_head\.|rotary_emb\.inv_freq$")  # L1 regression predicts no words


class OFTNames(NameTable):
    """Prefixes, another word for the gains of LayerScale, and with FiLM a module around each block of the towers."""

    def __init__(self, film: bool) -> None:
        super().__init__(TABLE)
        self.film = film

    def published(self, name: str) -> str:
        name = re.sub(r"(\.ls[12]\.)gamma$", r"\1scale_factor", super().published(name))
        if self.film and name.startswith("vision_backbone."):
            name = re.sub(r"(\.blocks\.\d+\.)(?!scale\.|shift\.)", r"\1block.", name)
        return name

    def own(self, name: str) -> str:
        name = super().own(re.sub(r"(\.ls[12]\.)scale_factor$", r"\1gamma", name))
        return re.sub(r"(\.blocks\.\d+\.)block\.", r"\1", name)


NAMES, FILM_NAMES = OFTNames(film=False), OFTNames(film=True)


def published_tensors(
    state: Mapping[str, Tensor],
    action_head: Mapping[str, Tensor] | None,
    proprio_projector: Mapping[str, Tensor] | None = None,
    vision_backbone: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """All tensors under one set of names; those of `vision_backbone` (FiLM) take the place of the model's.

    Raises:
        ValueError: there is no head that regresses actions.
    """
    if (
        action_head is None
        or not any(".fc2." in name for name in action_head)
        or any("noise" in n for n in action_head)
    ):
        raise ValueError(
            "The action head is not one that regresses actions; give the tensors of action_head--STEP_checkpoint.pt of "
            "an OpenVLA-OFT trained with L1 regression. The discrete and the diffusion variant cannot be read."
        )
    found = dict(state)
    if vision_backbone is not None:
        found = {name: t for name, t in found.items() if not name.startswith("vision_backbone.")}
        bare = {n.removeprefix("module.").removeprefix("vision_backbone."): t for n, t in vision_backbone.items()}
        found |= {f"vision_backbone.{name}": tensor for name, tensor in merged_adapters(bare).items()}
    for prefix, part in (("action_head.", action_head), ("proprio_projector.", proprio_projector or {})):
        found |= {prefix + name.removeprefix("module."): tensor for name, tensor in part.items()}
    return found


def _config_of(
    own: Mapping[str, Tensor], *, num_heads: int | None, vision_heads: int, horizon: int, action_dim: int, images: int
) -> OFTConfig:
    """The configuration that the model's own names and shapes describe."""
    shapes = {BACKBONE.published(name.removeprefix("backbone.")): tuple(t.shape) for name, t in own.items()}
    vlm = vlm_config_of(shapes, vision_heads=vision_heads, llm_heads=num_heads)
    first = own.get(HEAD + "fc1.weight", torch.empty(1, 0))
    state = own.get(STATE + "fc1.weight")
    return OFTConfig(
        dinov2=vlm.dinov2,
        siglip=vlm.siglip,
        llm=replace(vlm.llm, norm_eps=LLAMA2_HF.norm_eps),
        num_views=images,
        action_dim=action_dim,
        state_dim=1 if state is None else state.shape[1],
        horizon=horizon,
        head_width=first.shape[0],
        head_blocks=len([name for name in own if name.endswith(".ffn.1.weight")]),
        state=state is not None,
        film=any(".blocks.0.scale." in name for name in own),
        film_padding=True,
        mask_padded=False,
    )


def load(tensors: Mapping[str, Tensor], precision: Precision, **shape: Any) -> tuple[OFT, TensorReport]:
    """The model that `published_tensors` describe, sharing them where the type is right, and what became of each.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the sentence names them.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}, but must be one of {list(get_args(Precision))}.")
    ignored = [name for name in tensors if UNUSED.search(name)]
    own = NAMES.own_names({name: tensor for name, tensor in tensors.items() if name not in ignored})
    config = _config_of(own, **shape)
    names = FILM_NAMES if config.film else NAMES
    for stem, tower in ((DINO, config.dinov2), (SIGLIP, config.siglip)):
        inner = {name.removeprefix(stem): own.pop(name) for name in list(own) if name.startswith(stem)}
        kept, unused = from_timm(inner, tower)
        own |= {stem + name: tensor for name, tensor in kept.items()}
        ignored += [names.published(stem + name) for name in unused]
    with torch.device("meta"):
        model = OFT(config)
    dtype = {"float32": torch.float32, "reference": torch.bfloat16}.get(precision)
    found = {names.published(name): tensor.to(dtype or tensor.dtype) for name, tensor in own.items()}
    report = assign(model, found, ignored=ignored, names=names)
    if not report.complete:
        raise ValueError(f"The checkpoint does not fit: {report.summary()}.")
    return model, report


def written_tensors(model: OFT) -> dict[str, dict[str, Tensor]]:
    """{file: tensors} as published: "model" (transformers' names), "action_head", "proprio_projector"; with FiLM also
    "vision_backbone", and its towers without FiLM in "model".

    The output layer and SigLIP's pooling, which this model has not, are not written.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}}
    for own, parameter in model.named_parameters():
        name, tensor = NAMES.published(own), parameter.detach().contiguous()
        part, _, rest = name.partition(".")
        if part in ("action_head", "proprio_projector"):
            parts.setdefault(part, {})[f"module.{rest}"] = tensor
        elif not re.search(r"\.blocks\.\d+\.(scale|shift)\.", name):
            parts["model"][name] = tensor
        if model.config.film and part == "vision_backbone":
            parts.setdefault(part, {})[f"module.{FILM_NAMES.published(own)}"] = tensor
    return parts


class PublishedOFT(nn.Module):
    """An OpenVLA-OFT fed with token ids and normalised pixels, as the published code is.

    input_ids, attention_mask, action_slots [B, S]: the slots are placeholders, `</s>` and right padding stand behind
    them; pixel_values [B, 6 * images, size, size]; proprio [B, P] normalised, None where the model reads none.
    """

    def __init__(self, oft: OFT, action_stats: Mapping[str, Any]) -> None:
        super().__init__()
        self.oft, self.action_stats = oft, action_stats

    def published_parameters(self) -> dict[str, nn.Parameter]:
        """{published name: parameter}; those of component files behind `action_head.` and `proprio_projector.`."""
        names = FILM_NAMES if self.oft.config.film else NAMES
        return {names.published(name): parameter for name, parameter in self.oft.named_parameters()}

    def forward(
        self,
        input_ids: Int64[Tensor, "B S"],
        attention_mask: Tensor,
        action_slots: Bool[Tensor, "B S"],
        pixel_values: Tensor,
        proprio: Tensor | None = None,
    ) -> Float[Tensor, "B H A"]:
        """Normalised actions, with gradients."""
        batch = self._batch(input_ids, attention_mask, action_slots, pixel_values, proprio, None)
        head = self.oft.head
        return head.predict(self.oft.backbone.encode(batch, head.request, inserted=head.insert(batch)))

    def loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        action_slots: Tensor,
        pixel_values: Tensor,
        proprio: Tensor | None,
        actions: Float[Tensor, "B H A"],
    ) -> Float[Tensor, ""]:
        """Mean absolute error, with gradients."""
        return self.oft.loss(self._batch(input_ids, attention_mask, action_slots, pixel_values, proprio, actions)).total

    @torch.no_grad()
    def act(
        self, prompt_ids: Int64[Tensor, "B L"], pixel_values: Tensor, proprio: Tensor | None = None
    ) -> Float[Tensor, "B H A"]:
        """Actions in robot units for prompts of one length, without the placeholders."""
        rows, queries = len(prompt_ids), self.oft.head.request.queries
        empty = [] if bool((prompt_ids[:, -1] == EMPTY).all()) else [EMPTY]
        tail = prompt_ids.new_tensor([*empty, *[1] * queries, END]).expand(rows, -1)
        slots = torch.cat([torch.zeros_like(prompt_ids), torch.ones_like(tail)], dim=1).bool()
        slots[:, -1] = slots[:, prompt_ids.shape[1] : -1 - queries] = False
        ids = torch.cat([prompt_ids, tail], dim=1)
        return self.robot_actions(self(ids, torch.ones_like(ids), slots, pixel_values, proprio))

    def robot_actions(self, normalised: Float[Tensor, "B H A"]) -> Float[Tensor, "B H A"]:
        """float32 in robot units: by q01 and q99, or by min and max where the statistics have no quantiles (ALOHA)."""
        stats, n = self.action_stats, normalised.double()
        bounds = (stats["q01"], stats["q99"]) if "q01" in stats else (stats["min"], stats["max"])
        low, high = (torch.as_tensor(bound, dtype=n.dtype, device=n.device) for bound in bounds)
        mask = torch.as_tensor(stats.get("mask", [True] * len(low)), dtype=torch.bool, device=n.device)
        return torch.where(mask, 0.5 * (n + 1) * (high - low + 1e-8) + low, n).float()

    def _batch(
        self, ids: Tensor, mask: Tensor, slots: Tensor, pixels: Tensor, proprio: Tensor | None, actions: Tensor | None
    ) -> Batch:
        config, queries = self.oft.config, self.oft.head.request.queries
        if (proprio is None) == config.state:
            raise ValueError(
                "This model reads the robot's state, so proprio [B, P] must be given."
                if config.state
                else "This model reads no state of the robot, so proprio must be None."
            )
        if not bool((slots.sum(1) == queries).all()):
            raise ValueError(
                f"Rows have {slots.sum(1).tolist()} action slots, but a chunk of {config.horizon} actions of "
                f"{config.action_dim} numbers takes {queries} in each."
            )
        views = pixels.unflatten(1, (config.num_views, -1))
        view_mask = torch.ones(views.shape[:2], dtype=torch.bool, device=pixels.device)
        batch = raw_batch(views, view_mask, ids, mask, proprio, actions)
        return replace(batch, text_kind=torch.where(slots, int(TextKind.QUERY), batch.text_kind))


def from_published(
    state: Mapping[str, Tensor],
    *,
    num_heads: int,
    vision_heads: int,
    horizon: int,
    action_dim: int,
    images: int,
    action_stats: Mapping[str, Any],
    precision: Precision = "float32",
    action_head: Mapping[str, Tensor] | None = None,
    proprio_projector: Mapping[str, Tensor] | None = None,
    noisy_action_projector: Mapping[str, Tensor] | None = None,
    vision_backbone: Mapping[str, Tensor] | None = None,
) -> PublishedOFT:
    """Build the OpenVLA-OFT that published tensors describe, and load it.

    state              of the merged model, under transformers' names
    action_stats       of the data set: q01 and q99 (or min and max), mask
    precision          "float32" widens, "file" keeps the types, "reference" casts to bfloat16 as published code runs
    action_head, proprio_projector, vision_backbone   of their own files; the last one has the towers with FiLM

    Raises:
        ValueError: tensors are missing, unexpected or of another shape, or those of another variant.
    """
    if noisy_action_projector is not None:
        raise ValueError("noisy_action_projector belongs to the diffusion variant, which cannot be read.")
    tensors = published_tensors(state, action_head, proprio_projector, vision_backbone)
    shape = {"horizon": horizon, "action_dim": action_dim, "images": images}
    model, _ = load(tensors, precision, num_heads=num_heads, vision_heads=vision_heads, **shape)
    return PublishedOFT(model, action_stats)
