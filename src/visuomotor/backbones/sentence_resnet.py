"""Residual networks that a sentence embedding modulates: the backbone of DexVLA's Stage 1.

Dimensions: B samples, C channels of a network's last stage, D width of the condition; others as in contract.Batch.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from visuomotor.backbones.base import Backbone, Context, ContextRequest, refuse_writing
from visuomotor.contract import Batch
from visuomotor.nn.resnet import ResNet, ResNetConfig, imagenet_pixels

__all__ = ["SentenceResNet"]


class SentenceResNet(Backbone):
    """One feature, "condition" [B, 1, D]: a linear of the features of one network for each of `roles`.

    The features of a view that a row lacks are zeros, and are not computed.
    """

    def __init__(self, resnet: ResNetConfig, roles: Sequence[str], sentence_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.sentence_dim = sentence_dim
        self.width = resnet.widths[-1]
        self.encoders = nn.ModuleDict({role: ResNet(resnet, sentence_dim) for role in roles})
        self.projector = nn.Linear(len(roles) * self.width, condition_dim)

    def encode(
        self, batch: Batch, request: ContextRequest, *, teach: bool = True, inserted: Tensor | None = None
    ) -> Context:
        """See `Backbone.encode`.

        Raises:
            ValueError: no sentence embedding, or of another width; a camera without an encoder; a request of more than
            the condition.
        """
        if set(request.features) - {"condition"} or request.keys or request.layers or inserted is not None:
            raise ValueError("A SentenceResNet gives its feature 'condition' alone; choose a head that reads no more.")
        sentence = self._sentence(batch)
        unknown = sorted(batch.images.keys() - set(self.encoders))
        if unknown:
            raise ValueError(
                f"The batch has images of {unknown[0]!r}, but encoders are for {list(self.encoders)}; give the model "
                f"the processor's image_roles."
            )
        features = [self._features(role, batch, sentence) for role in self.encoders]
        return Context(
            valid=batch.text_valid,
            labels=torch.zeros_like(batch.text_ids),
            state=batch.state,
            embodiment=batch.embodiment,
            views=batch.views,
            told=batch.labels,
            features={"condition": self.projector(torch.cat(features, dim=1))[:, None]},
        )

    def observe(
        self,
        batch: Batch,
        request: ContextRequest,
        *,
        room: int = 0,
        text: bool = False,
        inserted: Tensor | None = None,
    ) -> Context:
        if text:
            raise refuse_writing()
        return self.encode(batch, request, inserted=inserted)

    def _sentence(self, batch: Batch) -> Float[Tensor, "B E"]:
        sentence = batch.labels.get("sentence")
        if sentence is None or sentence.shape[1:] != (self.sentence_dim,):
            actual = "none" if sentence is None else f"one of width {sentence.shape[-1]}"
            raise ValueError(
                f"Stage 1 reads a sentence embedding of width {self.sentence_dim}, but the batch has {actual}; set "
                f"processor.sentence ('hashed', or a DistilBERT)."
            )
        return sentence

    def _features(self, role: str, batch: Batch, sentence: Float[Tensor, "B E"]) -> Float[Tensor, "B C"]:
        """Features of one camera."""
        zeros = sentence.new_zeros(batch.size, self.width)
        if role not in batch.images:
            return zeros
        images, encoder = batch.images[role], self.encoders[role]
        pixels = images if images.is_floating_point() else imagenet_pixels(images)
        if not batch.mixes_views:
            return encoder(pixels, sentence)
        rows = batch.present[:, list(batch.images).index(role)].nonzero()[:, 0]
        if not len(rows):
            return zeros
        features = encoder(pixels[rows], sentence[rows])
        return zeros.to(features.dtype).index_copy(0, rows, features)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision (encoders with their FiLM), and projector."""
        return {"vision": list(self.encoders.parameters()), "projector": list(self.projector.parameters())}
