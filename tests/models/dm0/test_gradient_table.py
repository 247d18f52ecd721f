"""Who learns what from which source: the paper's gradient table, on samples as the data room makes them."""

import numpy as np
import pytest
import torch

from tests.data.fakes import CORPUS, FakeDataset
from visuomotor.contract import Batch, Losses
from visuomotor.data.processor import Objective, Processor, ProcessorConfig
from visuomotor.models import make_config
from visuomotor.models.dm0 import DM0

VLM, EXPERT = ("vision", "projector", "llm", "embed"), ("expert", "action_io")
ROBOT: Objective = "robot"
VISION_LANGUAGE: tuple[Objective, ...] = ("grounding", "boxes")
# (source, loss term): (is there such a loss, does the VLM learn from it, does the expert)
TABLE = {
    ("robot", "text"): (True, True, False),
    ("robot", "action_tokens"): (True, True, False),
    ("robot", "flow"): (True, False, True),
    **{(source, "text"): (True, True, False) for source in VISION_LANGUAGE},
    **{(source, term): (False, False, False) for source in VISION_LANGUAGE for term in ("action_tokens", "flow")},
}
DATASET = FakeDataset()
LEVELS = {"subtask": 1.0, "box": 1.0, "trajectory": 1.0, "action": 1.0}


def build(**config: object) -> Processor:
    return Processor.build(ProcessorConfig(levels=LEVELS, **config), [DATASET], CORPUS)  # type: ignore[arg-type]


def batch_of(processor: Processor, objective: Objective) -> Batch:
    samples = []
    for row in (3, 30):
        images = {c: DATASET.frames(c, np.array([row]))[0] for c in DATASET.cameras}
        samples.append(processor.sample(0, DATASET, row, images, np.random.default_rng(row), objective))
    return processor.collate(samples)


def make(processor: Processor, **options: object) -> DM0:
    torch.manual_seed(0)
    words = processor.tokenizer
    sizes = {"vision.image_size": 16, "vision.patch_size": 4, "vision.width": 16, "vision.heads": 2, "vision.layers": 1}
    sizes |= {"vision.mlp_width": 16, "llm.width": 16, "llm.mlp_width": 16, "expert.width": 16, "expert.mlp_width": 16}
    sizes |= {"llm.layers": 2, "llm.heads": 2, "llm.kv_heads": 1, "llm.head_dim": 8}
    sizes |= {"state_token": "expert", "noise_draws": 2}
    sizes |= {"action_start_id": words.action_start, "action_token_count": words.action_count}
    return DM0(make_config("dm0", "nano", **{**sizes, "llm.vocab_size": words.vocab_size, **options}))


def losses(model: DM0, batch: Batch) -> Losses:
    return model.loss(batch, generator=torch.Generator().manual_seed(1))


def learns(model: DM0, parts: tuple[str, ...]) -> bool:
    """Whether all of these parts have a gradient; False when none has, not even zeros."""
    found = {p.grad is not None for name in parts for p in model.parts()[name]}
    assert len(found) == 1, "a part learns by halves"
    return found.pop()


@pytest.mark.parametrize("config", [{}, {"scaffold": "parallel"}, {"action_tokens": "fast", "fast_vocab": 300}])
@pytest.mark.parametrize(("source", "term"), list(TABLE))
def test_gradient_table(source: Objective, term: str, config: dict[str, object]) -> None:
    processor = build(**config)
    model, batch = make(processor), batch_of(processor, source)
    exists, vlm, expert = TABLE[source, term]
    found = losses(model, batch).terms[term]
    assert (int(found.count) > 0) == exists
    if exists:
        found.sum.backward()
        assert (learns(model, VLM), learns(model, EXPERT)) == (vlm, expert)


def test_one_step_over_a_mixture_gives_each_side_its_own_gradient_alone() -> None:
    """The VLM's gradient is that of its texts, the expert's that of the flow."""
    processor = build()
    mixture = [batch_of(processor, objective) for objective in (ROBOT, *VISION_LANGUAGE)]

    def gradients(*terms: str) -> dict[str, list[torch.Tensor | None]]:
        model = make(processor)
        sum(losses(model, b).terms[t].sum for b in mixture for t in terms).backward()  # type: ignore[union-attr]
        return {name: [p.grad for p in parameters] for name, parameters in model.parts().items()}

    together, texts, flow = (
        gradients("text", "action_tokens", "flow"),
        gradients("text", "action_tokens"),
        gradients("flow"),
    )
    for parts, alone in ((VLM, texts), (EXPERT, flow)):
        for name in parts:
            for a, b in zip(together[name], alone[name], strict=True):
                assert a is not None
                assert b is not None
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_without_decoupling_the_flow_reaches_the_vlm_and_no_loss_changes() -> None:
    processor = build()
    batch = batch_of(processor, ROBOT)
    on, off = (losses(make(processor, gradient_decoupling=switch), batch) for switch in (True, False))
    assert all(torch.equal(on.terms[name].sum, off.terms[name].sum) for name in on.terms)
    model = make(processor, gradient_decoupling=False)
    losses(model, batch).terms["flow"].sum.backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parts()["vision"])
