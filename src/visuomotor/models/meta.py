"""Run a model on the meta device, where tensors have shapes and no values, as a GPU would run it.

The host reads a few masks (which rows have actions, which tokens are supervised). Integers and masks are therefore
computed on the CPU, too. A mask that depends on unknown values counts as all True.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from visuomotor.contract import Batch, TextKind
from visuomotor.models.base import Model

__all__ = ["FUSED_ATTENTION", "as_on_a_gpu", "full_batch", "meta_model"]

aten = torch.ops.aten
# The fused operation that the meta device knows with masks and grouped keys. What autograd keeps of it (queries, keys,
# values, output, one normaliser for each query) is what fused kernels of a GPU keep.
FUSED_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
PRODUCTS = {
    F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d,
    torch.mm, torch.bmm, torch.matmul, torch.addmm, torch.baddbmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm,
}  # fmt: skip
DEFAULT_SIDE = 224
# Operations whose result, or its shape, depends on values.
READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def meta_model(model: Model) -> Model:
    """A copy of the model without values, which adapters and freezing may change."""
    with torch.device("meta"):
        copy = type(model)(model.config)
    return copy.to("meta").train(model.training)  # some buffers are computed on the CPU whatever the device


def full_batch(config: Any, batch_size: int, text_length: int, *, training: bool) -> Batch:
    """A batch of zeros for models of this configuration: all cameras, no padding; in training all text is a target.

    It has the labels and weights of all models; each reads those that it needs. A configuration that says nothing of
    images gets one of 224 pixels.
    """
    views = range(getattr(config, "num_views", 1))
    roles = getattr(config, "image_roles", None) or [f"camera{index}" for index in views]
    side = getattr(config, "image_size", DEFAULT_SIDE)
    height, width = getattr(config, "image_height", side), getattr(config, "image_width", side)
    image_id = getattr(config, "image_id", None)
    items = 0 if image_id is None else len(roles)  # a text may hold an item for each view
    ids = torch.zeros(batch_size, items + text_length, dtype=torch.int64)
    ids[:, :items] = image_id or 0
    kind = torch.full_like(ids, int(TextKind.SUBTASK if training else TextKind.PROMPT))
    kind[:, :items] = int(TextKind.PROMPT)
    actions = torch.zeros(batch_size, config.horizon, config.action_dim)
    step_weights = {name: torch.zeros(actions.shape[:2]) for name in ("trajectory", "chunk")}
    return Batch(
        images=dict.fromkeys(roles, torch.zeros(batch_size, height, width, 3, dtype=torch.uint8)),
        image_valid=torch.ones(batch_size, len(roles), dtype=torch.bool),
        text_ids=ids,
        text_valid=torch.ones_like(ids, dtype=torch.bool),
        text_kind=kind,
        text_loss=kind == int(TextKind.SUBTASK),
        state=torch.zeros(batch_size, getattr(config, "state_dim", 0)),
        actions=actions if training else None,
        action_valid=torch.ones_like(actions, dtype=torch.bool) if training else None,
        embodiment=torch.zeros(batch_size, dtype=torch.int64),
        source=torch.zeros(batch_size, dtype=torch.int64),
        weights=step_weights if training else {},
        labels={
            "progress": torch.zeros(batch_size, 2 if training else 1),
            "router": torch.zeros(batch_size),
            "sentence": torch.zeros(batch_size, getattr(config, "sentence_dim", 0)),
        },
    )


@contextmanager
def as_on_a_gpu(
    precision: Literal["house", "float32"] = "float32", *, materialise: bool = False
) -> Iterator[Callable[[], None]]:
    """Inside, programs run on meta tensors and take the way that they take on a GPU.

    Autocast does not know the meta device: with "house" products get bfloat16 copies of their inputs here, and those of
    weights that learn are shared until the function that is returned ends the forward pass. Attention is one fused
    operation; with `materialise`, grouped queries in float32, for which GPUs have no fused kernel, make their maps.
    """
    enabled, kernels = precision == "house", _Kernels(materialise)
    # The CPU's autocast leaves meta tensors alone. It is the switch that programs turn off for parts of their own.
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled), _Values(), kernels:
        yield kernels.end_forward


class _Kernels(TorchFunctionMode):
    """Bfloat16 copies for products where autocast is on, and fused attention."""

    def __init__(self, materialise: bool) -> None:
        super().__init__()
        self.materialise = materialise
        self.copies: dict[int, tuple[Tensor, Tensor]] | None = {}

    def end_forward(self) -> None:
        """Drop the shared copies, as at the end of an autocast region; layers that run again make their own."""
        self.copies = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        options: dict[str, Any] = dict(kwargs or {})
        if func is torch.tensor and torch.device(options.get("device") or "cpu").type == "meta":
            del options["device"]  # the value would be lost before `_Values` sees it
            return torch.tensor(*args, **options).to("meta")
        if func is Tensor.backward:
            with self:  # a handler runs outside of its mode, but layers that are computed again run inside
                return _engine_run_backward(args, (torch.ones_like(args[0]),), False, False, (), accumulate_grad=True)
        attends = func is F.scaled_dot_product_attention
        if (attends or func in PRODUCTS) and torch.is_autocast_enabled("cpu"):
            args = tree_map(self.half, args)
            options = {name: self.half(value) for name, value in options.items()}
        return self.attend(*args, **options) if attends else func(*args, **options)

    def half(self, value: Any) -> Any:
        """The value as a product reads it under autocast."""
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if self.copies is None or not (value.requires_grad and value.is_leaf):
            return value.to(torch.bfloat16)
        if id(value) not in self.copies:
            self.copies[id(value)] = (value, value.to(torch.bfloat16))
        return self.copies[id(value)][1]

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """`F.scaled_dot_product_attention`."""
        if self.materialise and enable_gqa and query.dtype == torch.float32:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            hidden = torch.full((), -torch.inf, dtype=query.dtype, device=query.device)
            attn_mask = torch.where(attn_mask, torch.zeros_like(hidden), hidden)
        return FUSED_ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


class _Values(TorchDispatchMode):
    """Values of integers and masks on the meta device, for programs that read them."""

    def __init__(self) -> None:
        super().__init__()
        self.known = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = all(self.value(tensor) is not None for tensor in tensors)
        known = known and torch.Tag.nondeterministic_seeded not in func.tags
        reads = bool(READS & set(func.tags)) or _is_copy_to_host(func, kwargs)
        if reads and (known or args[0].dtype == torch.bool):
            answer = func(*tree_map(self.on_cpu, args), **tree_map(self.on_cpu, kwargs))
            copied = isinstance(answer, Tensor) and READS & set(func.tags)
            return self.remember(answer.to("meta"), answer) if copied else answer
        result = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if known and results and not any(leaf.is_floating_point() for leaf in results):
            real = func(*tree_map(self.on_cpu, args), **tree_map(self.on_cpu, kwargs))
            for leaf, value in zip(results, tree_leaves(real), strict=True):
                self.remember(leaf, value)
        elif func._schema.is_mutable:
            self.forget(args[0])
        return result

    def value(self, tensor: Tensor) -> Tensor | None:
        return self.known.get(tensor) if tensor.is_meta else tensor

    def on_cpu(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            known = self.value(value)
            return torch.ones(value.shape, dtype=value.dtype) if known is None else known
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def remember(self, tensor: Tensor, value: Tensor) -> Tensor:
        self.known[tensor] = value
        return tensor

    def forget(self, written: Any) -> None:
        """Drop the values of all views of a tensor into which something unknown was written."""
        if isinstance(written, Tensor):
            storage = written.untyped_storage()._cdata
            for tensor in [t for t in self.known if t.untyped_storage()._cdata == storage]:
                del self.known[tensor]


def _is_copy_to_host(func: Any, kwargs: Mapping[str, Any]) -> bool:
    return func is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type == "cpu"
