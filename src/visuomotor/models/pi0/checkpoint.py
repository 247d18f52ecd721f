"""Published tensors of pi0 and pi0.5: names both ways, the configuration that shapes tell, and raw inputs.

The tower has the names of transformers there and of timm here; all other names differ by prefix.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.backbones.base import Context
from visuomotor.codec import update
from visuomotor.contract import Batch
from visuomotor.heads.base import Draws, Targets
from visuomotor.models.assign import Precision, assign, cast, count_numbered, decoder_fields, told_shape
from visuomotor.models.names import NameTable
from visuomotor.models.pi0.config import SIZES, Pi0Config
from visuomotor.models.pi0.model import Pi0
from visuomotor.models.raw import raw_batch
from visuomotor.models.report import TensorReport
from visuomotor.nn.vit_names import siglip_name

__all__ = [
    "NAMES", "PublishedPi0", "config_of", "from_published", "load", "published_tensors", "written_tensors",
]  # fmt: skip

log = logging.getLogger(__name__)
INNER = "paligemma_with_expert."
TOWER = INNER + "paligemma.model.vision_tower.vision_model."
LLM = INNER + "paligemma.model.language_model."
EXPERT = INNER + "gemma_expert.model."
SIGLIP_HEAD = 72  # width of a head in the published tower
POSITIONS = TOWER + "embeddings.position_embedding.weight"
EMBED, OUTPUT = LLM + "embed_tokens.weight", INNER + "paligemma.lm_head.weight"
NAMES = NameTable(
    {
        "backbone.vision.tower.": TOWER,
        "backbone.vision.projector.": INNER + "paligemma.model.multi_modal_projector.linear.",
        "backbone.llm.": LLM,
        "head.expert.": EXPERT,
        "head.": "",
    }
)
# The expert's output rows are random in the files and read by nothing; statistics are buffers of LeRobot's older files.
UNUSED = re.compile(r"gemma_expert\.lm_head\.|^(un)?normalize_(inputs|targets|outputs)\.")
# Of the published bfloat16 model: the tower's embeddings, the decoders' norms, and the linears around the expert.
FLOAT32 = re.compile(
    r"vision_model\.embeddings\.|(language_model|gemma_expert\.model)\..*norm|^(action|state|time)_|^action_time_"
)


def published_tensors(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors under openpi's names, the embedding under its own; names left out because nothing reads them).

    Accepts LeRobot's prefix `model.`, and the embedding under its name or the output layer's, which are tied.
    """
    tensors = {name.removeprefix("model."): tensor for name, tensor in state_dict.items()}
    ignored = [name for name in tensors if UNUSED.search(name)]
    read = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    if OUTPUT in read:
        output = read.pop(OUTPUT)
        # A framework that unties the two fine-tunes the embedding alone: acting reads no output layer.
        if not torch.equal(read.setdefault(EMBED, output), output):
            log.warning("%s is not the embedding to which it was tied; it is left out.", OUTPUT)
            ignored.append(OUTPUT)
    return read, ignored


def config_of(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, Any]) -> Pi0Config:
    """The configuration that published names and shapes describe; `known` has fields that they cannot tell.

    Raises:
        ValueError: a tensor that tells a dimension is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        return told_shape(shapes, name, "pi0 checkpoint")

    head_dim, adaptive = known["llm.head_dim"], any(".input_layernorm.dense." in name for name in shapes)
    vocabulary, _ = shape(EMBED)
    tower_width, _, _, patch = shape(TOWER + "embeddings.patch_embedding.weight")
    fields: dict[str, Any] = {
        "vision.image_size": round(shape(POSITIONS)[0] ** 0.5) * patch,
        "vision.patch_size": patch,
        "vision.width": tower_width,
        "vision.layers": count_numbered(shapes, TOWER + "encoder.layers."),
        "vision.heads": max(1, tower_width // SIGLIP_HEAD),
        "vision.mlp_width": shape(TOWER + "encoder.layers.0.mlp.fc1.weight")[0],
        "llm.vocab_size": vocabulary,
        **decoder_fields(shapes, LLM, head_dim, "pi0 checkpoint"),
        "expert.width": shape("action_in_proj.weight")[0],
        "expert.mlp_width": shape(EXPERT + "layers.0.mlp.gate_proj.weight")[0],
        "action_dim": shape("action_in_proj.weight")[1],
        "state_dim": shape("action_in_proj.weight")[1] if adaptive else shape("state_proj.weight")[1],
    }
    return update(SIZES["base-pi05" if adaptive else "base"], {**fields, **known})


def load(
    tensors: Mapping[str, Tensor], precision: Precision, known: Mapping[str, Any], ignored: Sequence[str] = ()
) -> tuple[Pi0, TensorReport]:
    """The model that `published_tensors` describe, and share where the type is right; for `known` see `config_of`.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the sentence names them.
    """
    config = config_of({name: tuple(t.shape) for name, t in tensors.items()}, known)
    with torch.device("meta"):
        model = Pi0(config)
    read = cast(tensors, precision, FLOAT32)
    read[POSITIONS] = read[POSITIONS][None]
    names = NameTable({name: _published(name) for name in model.state_dict()})
    report = assign(model, read, ignored=ignored, names=names)
    if not report.complete:
        raise ValueError(f"The checkpoint does not fit: {report.summary()}.")
    return model, report


def written_tensors(model: Pi0) -> dict[str, Tensor]:
    """The model's tensors as in published files: the embedding as output layer, the tower as transformers has it.

    The expert's unused output rows are not written.
    """
    tensors = {_published(name): tensor.detach() for name, tensor in model.state_dict().items()}
    tensors[POSITIONS] = tensors[POSITIONS][0]
    tensors[OUTPUT] = tensors.pop(EMBED)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _published(name: str) -> str:
    """The published name of a model's tensor."""
    name = NAMES.published(name)
    return TOWER + siglip_name(name.removeprefix(TOWER)) if name.startswith(TOWER) else name


class PublishedPi0(nn.Module):
    """A pi0 or pi0.5 fed with normalised images and masks by row, as the published code is.

    images [B, V, 3, S, S] in [-1, 1], view_mask [B, V], ids and text_mask [B, L], state [B, 32] (pi0.5: None, there it
    is in the text), x, actions and noise [B, T, A], t [B], for pi0.5 also [B, T]; t = 1 is noise.
    """

    def __init__(self, pi0: Pi0) -> None:
        super().__init__()
        self.pi0 = pi0

    def published_parameters(self) -> dict[str, nn.Parameter]:
        """{published name: parameter}; the embedding has its own name, not the output layer's."""
        return {_published(name): parameter for name, parameter in self.pi0.named_parameters()}

    @torch.no_grad()
    def velocity(
        self, images: Tensor, view_mask: Tensor, ids: Tensor, text_mask: Tensor, state: Tensor | None, x: Tensor,
        t: Tensor,
    ) -> Float[Tensor, "B T A"]:  # fmt: skip
        """The velocity at x and flow times t."""
        context = self.encode(images, view_mask, ids, text_mask, state)
        return self.pi0.denoise(context, x[:, None], t[:, None])[:, 0]

    @torch.no_grad()
    def sample_actions(
        self, images: Tensor, view_mask: Tensor, ids: Tensor, text_mask: Tensor, state: Tensor | None, noise: Tensor,
        steps: int = 10,
    ) -> Float[Tensor, "B T A"]:  # fmt: skip
        """Normalised action chunks by `steps` Euler steps from `noise`."""
        context = self.encode(images, view_mask, ids, text_mask, state)
        return self.pi0.head.sample(context, noise[:, None], steps=steps).actions[:, 0]

    def loss(
        self, images: Tensor, view_mask: Tensor, ids: Tensor, text_mask: Tensor, state: Tensor | None, actions: Tensor,
        noise: Tensor, t: Tensor,
    ) -> Float[Tensor, "B T A"]:  # fmt: skip
        """Squared errors of the velocity, with gradients."""
        batch = self._batch(images, view_mask, ids, text_mask, state, actions)
        model, targets = self.pi0, Targets.of(batch)
        assert targets is not None
        context = model.backbone.encode(batch, model.head.request)
        return model.head.errors(context, targets, Draws(noise=noise[:, None], time=t[:, None]))[0][:, 0]

    @torch.no_grad()
    def encode(
        self, images: Tensor, view_mask: Bool[Tensor, "B V"], ids: Int64[Tensor, "B L"], text_mask: Tensor,
        state: Tensor | None,
    ) -> Context:  # fmt: skip
        """The context. A view is encoded only for the rows that have it."""
        batch = self._batch(images, view_mask, ids, text_mask, state, None)
        return self.pi0.encode(batch, room=self.pi0.config.head.chunk_tokens)

    def _batch(
        self, images: Tensor, view_mask: Tensor, ids: Tensor, text_mask: Tensor, state: Tensor | None,
        actions: Tensor | None,
    ) -> Batch:  # fmt: skip
        config = self.pi0.config
        if (state is None) == (config.state == "token"):
            raise ValueError(
                "pi0.5 reads the state in the text, so state must be None."
                if state is not None
                else "pi0 reads the state as numbers, so state [B, S] must be given."
            )
        state = images.new_zeros(len(ids), config.state_dim) if state is None else state
        return raw_batch(images, view_mask, ids, text_mask, state, actions)


def from_published(
    tensors: Mapping[str, Tensor],
    *,
    vision_heads: int = 16,
    head_dim: int = 256,
    chunk_size: int = 50,
    precision: Precision = "float32",
) -> PublishedPi0:
    """Build the pi0 or pi0.5 that published tensors describe, and load it; all other dimensions come from the shapes.

    precision: "float32" widens, "file" keeps the types, "reference" casts as openpi's PyTorch code runs.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the sentence names them.
    """
    read, ignored = published_tensors(tensors)
    known = {"vision.heads": vision_heads, "llm.head_dim": head_dim, "horizon": chunk_size}
    return PublishedPi0(load(read, precision, known, ignored)[0])
