"""Parameters, arithmetic and traffic of a model, counted in a run on the meta device."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from visuomotor.models.base import Model
from visuomotor.models.meta import FUSED_ATTENTION, as_on_a_gpu, full_batch, meta_model

__all__ = ["Cost", "count_parameters", "sample_cost"]

aten = torch.ops.aten
# The operand of a product that memory must deliver: weights, or the keys and values that queries read.
RIGHT = {
    aten.mm: (1,), aten.addmm: (2,), aten.bmm: (1,), aten.baddbmm: (2,), aten.convolution: (1,),
    FUSED_ATTENTION: (1, 2),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Floating-point operations (a multiply-add is two), and values read, in numbers, not bytes.

    Operations are those of matrix products, convolutions and attention. `values_moved` counts the weights of each of
    them once per use, and the keys and values of attention, which is what bounds small batches.
    """

    flops: float
    values_moved: float


def count_parameters(model: Model) -> dict[str, int]:
    """Number of parameters by part."""
    return {name: sum(p.numel() for p in parameters) for name, parameters in model.parts().items()}


def sample_cost(model: Model, batch_size: int = 1, text_length: int = 100, steps: int | None = None) -> dict[str, Cost]:
    """Cost by part of one `sample` of one chunk per observation, all cameras present, nothing written.

    What has no parameters, as attention, belongs to the part whose parameters were used last. Parts without products
    are left out.
    """
    copy = meta_model(model).eval()
    counter = _Counter(copy)
    with as_on_a_gpu(), torch.no_grad():
        batch = full_batch(copy.config, batch_size, text_length, training=False).to("meta")
        with counter:
            copy.sample(batch, steps=steps)
    return {
        name: Cost(flops=float(counter.flops[name]), values_moved=float(counter.moved[name]))
        for name in copy.parts()
        if counter.flops[name]
    }


class _Counter(TorchDispatchMode):
    """Operations and values moved by part."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.owners = {
            parameter.untyped_storage()._cdata: part for part, own in model.parts().items() for parameter in own
        }
        self.part = next(iter(model.parts()))
        self.flops: dict[str, int] = defaultdict(int)
        self.moved: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for leaf in tree_leaves(args):
            if isinstance(leaf, Tensor):
                self.part = self.owners.get(leaf.untyped_storage()._cdata, self.part)
        kind = func.overloadpacket
        if kind == FUSED_ATTENTION:
            query, key, value = args[:3]
            scores = query.shape[:-1].numel() * key.shape[-2]
            self.flops[self.part] += 2 * scores * (query.shape[-1] + value.shape[-1])
        elif kind in flop_registry:
            self.flops[self.part] += flop_registry[kind](*args, **kwargs, out_val=result)
        self.moved[self.part] += sum(args[index].numel() for index in RIGHT.get(kind, ()))
        return result
