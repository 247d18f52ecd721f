"""Memory of one training step of any model, counted in a run of its loss and backward pass on the meta device."""

import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from visuomotor.contract import Mixture, Stage
from visuomotor.models.base import Model
from visuomotor.models.meta import as_on_a_gpu, full_batch, meta_model
from visuomotor.training.lora import add_adapters
from visuomotor.training.optimiser import make_optimiser

__all__ = ["LiveBytes", "training_memory"]

STEP_BYTES = 4  # AdamW counts steps for each tensor


def training_memory(
    model: Model,
    *,
    batch_size: int,
    text_length: int,
    trains: Collection[str],
    lora: int = 0,
    precision: Literal["house", "float32"] = "house",
    checkpoint_activations: bool = False,
) -> dict[str, int]:
    """Bytes of "weights", "gradients", "optimiser" (AdamW), "activations", and what is "transient" on top.

    Counted is a micro-batch of `batch_size` samples, all cameras present, every text token supervised, whose step has
    gradients already. Activations are all that is alive when the backward pass begins, copies of weights in half
    precision included; transient is what the forward or backward pass needs beyond them. Workspace of kernels and what
    an allocator keeps is not counted.

    Args:
        trains: parts that learn; with `lora` the language model, if it is among them, through adapters of that rank.

    Raises:
        ValueError: `trains` names a part that the model does not have, or no layers of it can be computed again.
    """
    stage = Stage(
        name="memory",
        steps=1,
        mixture=Mixture(sources=()),
        trains=dict.fromkeys(trains, 1.0),
        lora=lora if "llm" in trains else 0,
    )
    copy = meta_model(model).train()
    copy.checkpoint_activations(checkpoint_activations)
    if stage.lora:
        with torch.device("meta"):
            add_adapters(copy, stage)
    optimiser = make_optimiser(copy, stage)
    learning = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter in learning:
        parameter.grad = torch.zeros_like(parameter)
    with as_on_a_gpu(precision, materialise=True) as end_forward:
        batch = full_batch(copy.config, batch_size, text_length, training=True).to("meta")
        gradients = [parameter.grad for parameter in learning]
        with LiveBytes([*copy.parameters(), *copy.buffers(), gradients, vars(batch)]) as live:
            total = copy.loss(batch).total
            end_forward()
            activations = live.now
            total.backward()
    sizes = _bytes(learning)
    return {
        "weights": _bytes(copy.parameters()),
        "gradients": sizes,
        "optimiser": 2 * sizes + STEP_BYTES * len(learning),
        "activations": activations,
        "transient": live.peak - activations,
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations have made inside and that are alive: `now`, and at most (`peak`).

    `before`: tensors, in any nesting of containers, whose storages do not count.
    """

    def __init__(self, before: Any) -> None:
        super().__init__()
        self.now = self.peak = 0
        storages = [leaf.untyped_storage() for leaf in tree_leaves(before) if isinstance(leaf, Tensor)]
        # Storages are known by address; a reference to each keeps its address from being used again.
        self.seen: dict[int, Any] = {storage._cdata: storage for storage in storages}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self.seen:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self.seen[place] = weakref.ref(storage, lambda _: self.remove(place, size))

    def remove(self, place: int, size: int) -> None:
        del self.seen[place]
        self.now -= size
