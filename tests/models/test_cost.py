"""Counts on the meta device against torch's counter in a real run on the CPU."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visuomotor.models import MODELS, Model, make_config, make_model
from visuomotor.models.cost import count_parameters, sample_cost
from visuomotor.models.damvla import DAMVLA
from visuomotor.models.meta import full_batch

BATCH, TEXT, STEPS = 3, 9, 5
ROBOTS = {"head.embodiments": ("arm", "hand"), "head.action_dims": (3, 2), "head.state_dims": (2, 0)}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "nano", {}) for name in MODELS),
    ("dm0", "nano", {"state_token": "prefix"}),
    ("dm0", "nano", {"state_token": "expert", "progress_token": True, "tie_embeddings": False}),
    ("cogact", "nano", {"guidance": 1.0}),
    ("damvla", "nano", {"routing": "soft"}),
    ("dexvla", "nano-UNet", {}),
    ("dexvla-expert", "nano", ROBOTS),
]


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}-{v[1]}-{'-'.join(v[2])}")
def model(request: pytest.FixtureRequest) -> Model:
    name, size, fields = request.param
    torch.manual_seed(0)
    made = make_model(name, make_config(name, size, **fields)).eval()
    if isinstance(made, DAMVLA) and made.head.router is not None:
        torch.nn.init.constant_(made.head.router.layers.bias, -100.0)  # of two heads, the arm's is counted
    return made


def test_flops_are_those_of_a_real_sample(model: Model) -> None:
    batch = full_batch(model.config, BATCH, TEXT, training=False)
    # The counter does not know the fused CPU attention; as plain products it counts, causal halves included.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.sample(batch, steps=STEPS)
    cost = sample_cost(model, BATCH, TEXT, STEPS)
    assert sum(part.flops for part in cost.values()) == counter.get_total_flops()
    parts = {frozenset(map(id, own)): name for name, own in model.parts().items()}
    modules = {f"{type(model).__name__}.{name}": module for name, module in model.named_modules()}
    for name, counts in counter.get_flop_counts().items():
        own = frozenset(map(id, modules[name].parameters())) if name in modules else None
        if own in parts:
            assert cost[parts[own]].flops == sum(counts.values())


@pytest.mark.parametrize(
    ("name", "part"), [("dm0", "projector"), ("cogact", "projector"), ("dexvla", "merger"), ("dexvla", "film")]
)
def test_linear_parts_move_their_matrices_once(name: str, part: str) -> None:
    model = make_model(name, make_config(name))
    found = sample_cost(model, 1, TEXT, STEPS)[part]
    assert found.values_moved == sum(p.numel() for p in model.parts()[part] if p.ndim == 2)


def test_an_expert_moves_its_weights_and_what_it_attends_to_in_every_step() -> None:
    config = make_config("dm0", num_views=1, state_token="none")
    model, llm = make_model("dm0", config), config.llm
    seen = config.vision.tokens() + TEXT + config.head.chunk_tokens
    attended = 2 * llm.layers * seen * llm.kv_heads * llm.head_dim
    matrices = sum(p.numel() for p in model.parts()["expert"] if p.ndim == 2)
    for batch in (1, 4):
        assert sample_cost(model, batch, TEXT, STEPS)["expert"].values_moved == STEPS * (matrices + batch * attended)


def test_the_time_of_one_step_is_shared_by_none() -> None:
    model = make_model("dexvla-expert", make_config("dexvla-expert"))
    one, two, three = (sample_cost(model, 1, 0, steps)["head"].flops for steps in (1, 2, 3))
    assert three - two == two - one > 0
    assert one < 2 * (two - one)


def test_counting_leaves_model_and_random_numbers_alone() -> None:
    model = make_model("dm0", make_config("dm0"))
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    assert sum(count_parameters(model).values()) == sum(p.numel() for p in model.parameters())
    sample_cost(model, 1, TEXT, 2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    noise = torch.zeros(1, 1, model.config.horizon, model.config.action_dim)
    batch = full_batch(model.config, 1, TEXT, training=False)
    assert model.sample(batch, noise=noise).actions.isfinite().all()  # nothing on the meta device is left in a cache
