"""CogACT's vision-language model (Prismatic): two vision towers side by side, a projector, LLaMA-2.

Parameter names are the published ones behind the name of their part. Dimensions: B batch, N patches, L text tokens, W
width of the language model, D width of DINOv2, V width of both towers together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from visuomotor.contract import Batch
from visuomotor.models.cogact.config import VLMConfig
from visuomotor.nn.decoder import Decoder
from visuomotor.nn.masks import causal_attention
from visuomotor.nn.vision import resize_bytes
from visuomotor.nn.vit import ViT
from visuomotor.text.cogact_prompt import prompt, prompt_ids

__all__ = ["CogACTVLM", "Encoded", "prepare_images", "prompt", "prompt_ids"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepare_images(
    images: UInt8[Tensor, "B h w 3"], size: int
) -> tuple[Float[Tensor, "B 3 size size"], Float[Tensor, "B 3 size size"]]:
    """Images for (DINOv2, SigLIP): resized without keeping the aspect, normalised as each tower was trained."""
    x = resize_bytes(images.permute(0, 3, 1, 2), size).float() / 255
    mean, std = _imagenet(x.device)
    return (x - mean) / std, (x - 0.5) / 0.5


@lru_cache(maxsize=8)
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3, 1, 1], uploaded once per device: an upload in each sample would make the host wait."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


@dataclass(frozen=True, eq=False)
class Encoded:
    """What action models read of an image and a text.

    features   hidden states at the cognition token, one for each layer asked for
    prefix     DINOv2's class token and registers, from the block that also gives the patches
    """

    features: tuple[Float[Tensor, "B 1 W"], ...]
    prefix: Float[Tensor, "B P D"]


class CogACTVLM(nn.Module):
    """Images and text -> cognition feature."""

    def __init__(self, config: VLMConfig) -> None:
        super().__init__()
        self.config = config
        inputs, width = config.vision_width, config.llm.width
        towers = {"dino_featurizer": ViT(config.dinov2), "siglip_featurizer": ViT(config.siglip)}
        layers = [nn.Linear(inputs, 4 * inputs), nn.GELU(), nn.Linear(4 * inputs, width), nn.GELU()]
        self.vision_backbone = nn.ModuleDict(towers)
        self.projector = nn.ModuleDict({"projector": nn.Sequential(*layers, nn.Linear(width, width))})
        self.llm_backbone = nn.ModuleDict({"llm": nn.ModuleDict({"model": Decoder(config.llm)})})

    @property
    def llm(self) -> Decoder:
        decoder = self.llm_backbone.get_submodule("llm.model")
        assert isinstance(decoder, Decoder)
        return decoder

    def view_tokens(
        self, dinov2: Float[Tensor, "B 3 size size"], siglip: Float[Tensor, "B 3 size size"]
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "B N W"]]:
        """(DINOv2's prefix tokens, projected patches), both from the second-to-last blocks, without a norm."""
        prefix, patches = self.vision_backbone["dino_featurizer"](dinov2)
        _, others = self.vision_backbone["siglip_featurizer"](siglip)
        return prefix, self.projector["projector"](torch.cat([patches, others], dim=-1))

    def forward(
        self,
        images: UInt8[Tensor, "B h w 3"],
        text_ids: Int64[Tensor, "B L"],
        text_valid: Bool[Tensor, "B L"],
        layers: Sequence[int] = (-1,),
    ) -> Encoded:
        """One pass over [BOS | patches | rest of the text].

        text_ids     as `prompt_ids` makes them, padded on the right; text_valid is False there
        layers       whose hidden states to return: 0 the embeddings, i what i layers made; the last layer's, also as
                     -1, are normalised (the numbering of transformers)

        Raises:
            ValueError: there is no such layer.
        """
        pixels = prepare_images(images, self.config.dinov2.image_size)
        return self.encode(*pixels, text_ids, text_valid, layers)

    def encode(
        self,
        dinov2: Float[Tensor, "B 3 size size"],
        siglip: Float[Tensor, "B 3 size size"],
        text_ids: Int64[Tensor, "B L"],
        text_valid: Bool[Tensor, "B L"],
        layers: Sequence[int] = (-1,),
    ) -> Encoded:
        """`forward` for images that `prepare_images` has made."""
        return self._read(*self.view_tokens(dinov2, siglip), text_ids, text_valid, layers)

    def observe(self, batch: Batch, layers: Sequence[int] = (-1,)) -> Encoded:
        """`forward` for a batch; the patches, and the prefix tokens, of its views stand one view after the other.

        Raises:
            ValueError: the batch has no images, or there is no such layer.
        """
        size, views = self.config.dinov2.image_size, len(batch.images)
        if not views:
            raise ValueError("A CogACT reads images, but this batch has none; leave texts without images out.")
        pixels = [prepare_images(image, size) for image in batch.images.values()]
        dinov2, siglip = (torch.cat(images) for images in zip(*pixels, strict=True))
        tokens = self.view_tokens(dinov2, siglip)  # one call of the towers for all views
        prefix, patches = (t.unflatten(0, (views, -1)).transpose(0, 1).flatten(1, 2) for t in tokens)
        return self._read(prefix, patches, batch.text_ids, batch.text_valid, layers)

    def _read(
        self,
        prefix: Float[Tensor, "B P D"],
        patches: Float[Tensor, "B N W"],
        text_ids: Int64[Tensor, "B L"],
        text_valid: Bool[Tensor, "B L"],
        layers: Sequence[int],
    ) -> Encoded:
        depth = self.config.llm.layers
        wrong = [layer for layer in layers if not -depth - 1 <= layer <= depth]
        if wrong:
            raise ValueError(f"There is no layer {wrong[0]}: the language model has {depth}, and 0 is its embeddings.")
        text = self.llm.embed_tokens(text_ids)
        x = torch.cat([text[:, :1], patches.to(text.dtype), text[:, 1:]], dim=1)
        seen = text_valid.new_ones(patches.shape[:2])
        valid = torch.cat([text_valid[:, :1], seen, text_valid[:, 1:]], dim=1)
        attention, states = causal_attention(valid), []
        early = any(layer not in (-1, depth) for layer in layers)  # otherwise nobody keeps the states in between
        x, own = self.llm(x, attention, hidden=states if early else None, keys_only=True)
        slot = patches.shape[1] + text_valid.cumsum(1).argmax(1)  # of the last valid token
        last = self.llm.last_state(x, attention, own[-1], slot)
        features = tuple(last if layer in (-1, depth) else _at([*states, last][layer], slot) for layer in layers)
        return Encoded(features=features, prefix=prefix)


def _at(states: Float[Tensor, "B S W"], slot: Int64[Tensor, "B"]) -> Float[Tensor, "B 1 W"]:
    return states.gather(1, slot[:, None, None].expand(-1, 1, states.shape[-1]))
