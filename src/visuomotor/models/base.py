"""What every model offers. Trainer, policy, evaluation and command line use nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visuomotor.contract import Batch, Losses, Sampled
from visuomotor.models.report import TensorReport
from visuomotor.nn.random import normal

__all__ = ["Model"]


class Model(nn.Module, ABC):
    """A policy network between normalised batches and normalised actions. `config` is its frozen configuration.

    `chunk_guidance`: the kinds of nn.guidance.Guidance that its `sample` takes under this name; `writes`: it predicts
    text.
    """

    config: Any
    chunk_guidance: tuple[str, ...] = ()
    writes: bool = False

    @abstractmethod
    def loss(
        self,
        batch: Batch,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Named terms; noise [B, K, T, A] and time [B, K] replace the random draws."""

    @abstractmethod
    def encode(self, batch: Batch) -> Any:
        """What all denoising steps share."""

    @abstractmethod
    def denoise(self, prefix: Any, x: Tensor, t: Tensor) -> Tensor:
        """The head's prediction for x [B, N, T, A] at flow times t [B, N]."""

    @abstractmethod
    def sample(self, batch: Batch, **options: Any) -> Sampled:
        """Action chunks [B, N, T, A], normalised."""

    def draw_noise(self, batch: Batch, num_samples: int, generator: torch.Generator | None) -> Tensor:
        """float32[B, N, T, A], what `sample` starts from unless it is given noise."""
        shape = (batch.size, num_samples, self.config.horizon, self.config.action_dim)
        return normal(shape, generator, batch.text_ids.device)

    @abstractmethod
    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint groups that cover all parameters, for learning rates, freezing and sharding."""

    def checkpoint_activations(self, on: bool) -> None:
        """Whether layers keep only their inputs and are computed again in the backward pass; the result is the same.

        Raises:
            ValueError: asked of a model without layers that can.
        """
        if on and not self.can_checkpoint:
            raise ValueError(f"{type(self).__name__} has no layers that can be computed again; switch it off.")
        for layer in (module for module in self.modules() if hasattr(module, "checkpoint")):
            layer.checkpoint = on  # pyright: ignore[reportArgumentType]

    @property
    def can_checkpoint(self) -> bool:
        """Whether there are layers that `checkpoint_activations` can switch."""
        return any(hasattr(module, "checkpoint") for module in self.modules())

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """Fill parts of a fresh model from public weights, {part: folder or name on the Hugging Face Hub}."""
        raise ValueError(f"{type(self).__name__} has no parts that start from public weights, but {dict(sources)} are.")

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a checkpoint that this model starts from, maybe another model's, under its own names."""
        return dict(state)
