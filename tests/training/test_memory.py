"""The estimate against what a real optimiser holds, and against a real step on the CPU."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.training.fakes import FakeConfig, FakeModel, stage
from visuomotor.models import MODELS, Model, find_spec, make_config, make_model
from visuomotor.models.meta import full_batch
from visuomotor.nn.masks import Attention
from visuomotor.training.lora import add_adapters
from visuomotor.training.memory import LiveBytes, training_memory
from visuomotor.training.optimiser import make_optimiser

BATCH, TEXT = 3, 24
CASES = [
    *(("dm0", method) for method in ("everything", "adapters", "acting", "connector")),
    *((name, "everything") for name in MODELS if name != "dm0"),
    ("cogact", "acting"), ("damvla", "connector"), ("dexvla", "adapters"), ("dexvla-expert", "acting"),
]  # fmt: skip
attend = F.scaled_dot_product_attention


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Model, tuple[str, ...], int]:
    """A nano model, the parts that learn, and the rank of adapters."""
    name, method = request.param
    torch.manual_seed(0)
    model = make_model(name, make_config(name))
    parts = tuple(model.parts())
    acting = tuple(part for part in find_spec(name).acting if part in parts)
    connector = "merger" if "merger" in parts else "projector"
    trains = {"everything": parts, "adapters": ("llm", *acting), "acting": acting, "connector": (connector, *acting)}
    return model, trains[method], 4 * (method == "adapters")


def prepared(model: Model, trains: tuple[str, ...], lora: int) -> list[Tensor]:
    """The parameters that learn, with gradients of zero."""
    chosen = stage(trains=dict.fromkeys(trains, 1e-3), lora=lora)
    if lora:
        add_adapters(model, chosen)
    learning = [p for group in make_optimiser(model, chosen).param_groups for p in group["params"]]
    for parameter in learning:
        parameter.grad = torch.zeros_like(parameter)
    return learning


def nbytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def test_weights_gradients_and_optimiser_to_the_byte(case: tuple[Model, tuple[str, ...], int]) -> None:
    model, trains, lora = case
    estimate = training_memory(model, batch_size=1, text_length=TEXT, trains=trains, lora=lora)
    learning = prepared(model, trains, lora)
    optimiser = torch.optim.AdamW(learning)
    optimiser.step()
    state = [value for parameter in learning for value in optimiser.state[parameter].values()]
    assert estimate["weights"] == nbytes(model.parameters())
    assert estimate["gradients"] == nbytes(p.grad for p in model.parameters() if p.grad is not None)
    assert estimate["optimiser"] == nbytes(state)


def as_on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    """Without what is done for CPUs alone; in float32 grouped queries have no fused kernel."""

    def without_fused(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        grouped = options.get("enable_gqa") and not torch.is_autocast_enabled("cpu")
        with sdpa_kernel(SDPBackend.MATH) if grouped else nullcontext():
            return attend(query, *arguments, **options)

    patch.setattr("torch.compiler.is_compiling", lambda: True)
    patch.setattr("transformers.masking_utils.is_tracing", lambda *_: False)  # which asks the same
    patch.setattr(Attention, "ready", lambda self, dtype: self)
    patch.setattr(F, "scaled_dot_product_attention", without_fused)


@pytest.mark.parametrize(("precision", "again"), [("house", False), ("house", True), ("float32", False)])
def test_activations_are_those_of_a_real_step(
    case: tuple[Model, tuple[str, ...], int], precision: Any, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trains, lora = case
    options: dict[str, Any] = {"precision": precision, "checkpoint_activations": again}
    estimate = training_memory(model, batch_size=BATCH, text_length=TEXT, trains=trains, lora=lora, **options)
    learning = prepared(model.train(), trains, lora)
    model.checkpoint_activations(again)
    as_on_a_gpu(monkeypatch)
    batch = full_batch(model.config, BATCH, TEXT, training=True)
    before = [*model.parameters(), *model.buffers(), *(p.grad for p in learning), vars(batch)]
    with LiveBytes(before) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "house"):
            total = model.loss(batch).total
        activations = live.now
        total.backward()
    # Equal to the byte but for small tables: the time code is in float64 on a GPU, constants are copied there.
    assert estimate["activations"] == pytest.approx(activations, rel=1e-3)
    assert estimate["transient"] == pytest.approx(live.peak - activations, rel=1e-3)


def test_activations_are_what_autograd_saves(
    case: tuple[Model, tuple[str, ...], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trains, lora = case
    estimate = training_memory(model, batch_size=BATCH, text_length=TEXT, trains=trains, lora=lora)
    prepared(model.train(), trains, lora)
    as_on_a_gpu(monkeypatch)
    own, saved = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage  # alive, so that no other takes its place
        return tensor

    batch = full_batch(model.config, BATCH, TEXT, training=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        total = model.loss(batch).total
    assert total.requires_grad
    assert estimate["activations"] == pytest.approx(sum(s.nbytes() for s in saved.values()), rel=0.05)


def test_unknown_parts_are_refused() -> None:
    model = make_model("dm0", make_config("dm0"))
    with pytest.raises(ValueError, match=r"names 'lmm'.*Did you mean 'llm'"):
        training_memory(model, batch_size=1, text_length=1, trains=("lmm",))


def test_models_without_layers_that_can_be_computed_again_say_so() -> None:
    with torch.device("meta"):
        model = FakeModel(FakeConfig())
    with pytest.raises(ValueError, match="no layers that can be computed again"):
        training_memory(model, batch_size=1, text_length=1, trains=("*",), checkpoint_activations=True)


def test_bytes_are_counted_while_they_live() -> None:
    first = torch.zeros(10)
    with LiveBytes([first]) as live:
        view = first[2:]
        second = view + 1  # 32 bytes
        third = second.repeat(4)  # 128
        del second
        alias = third[:1]
        del third
        assert (live.now, live.peak) == (128, 160)
        del alias
    assert live.now == 0
