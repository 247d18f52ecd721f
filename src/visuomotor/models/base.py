"""What every model offers. Trainer, policy, evaluation and command line use nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visuomotor.contract import Batch, Losses, Sampled
from visuomotor.models.report import TensorReport
from visuomotor.nn.random import normal

__all__ = ["Cost", "Model"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Floating-point operations (a multiply-add is two), and values read or written, in numbers, not bytes."""

    flops: float
    values_moved: float


class Model(nn.Module, ABC):
    """A policy network between normalised batches and normalised actions. `config` is its frozen configuration.

    `chunk_guidance`: the kinds of nn.guidance.Guidance that its `sample` takes under this name; `sampling_fields`:
    those of its configuration that change what it samples and not what it has learnt. `writes`: it predicts text.
    """

    config: Any
    chunk_guidance: tuple[str, ...] = ()
    sampling_fields: tuple[str, ...] = ()
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

    def training_memory(
        self,
        *,
        batch_size: int,
        text_length: int,
        trains: Collection[str],
        lora: int = 0,
        precision: Literal["house", "float32"] = "house",
        checkpoint_activations: bool = False,
    ) -> dict[str, int]:
        """Bytes by use of one training step on a GPU, {} when nobody has worked them out for this model."""
        return {}

    def checkpoint_activations(self, on: bool) -> None:
        """Whether layers keep only their inputs and are computed again in the backward pass; the result is the same.

        Raises:
            ValueError: asked of a model without layers that can.
        """
        layers = [module for module in self.modules() if hasattr(module, "checkpoint")]
        if on and not layers:
            raise ValueError(f"{type(self).__name__} has no layers that can be computed again; switch it off.")
        for layer in layers:
            layer.checkpoint = on  # pyright: ignore[reportArgumentType]

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """Fill parts of a fresh model from public weights, {part: folder or name on the Hugging Face Hub}."""
        raise ValueError(f"{type(self).__name__} has no parts that start from public weights, but {dict(sources)} are.")

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a checkpoint that this model starts from, maybe another model's, under its own names."""
        return dict(state)

    def cost(self, batch_size: int, text_length: int, steps: int) -> Mapping[str, Cost]:
        """Cost of one `sample` by part, all cameras present."""
        raise NotImplementedError
