"""`sample` against the same model written plainly, and what it asks of the host and of a compiler."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from benchmarks.eager_dm0 import EagerDM0
from benchmarks.timing import count
from visuomotor.contract import Batch
from visuomotor.models.dm0 import DM0

Make = Callable[..., DM0]
MakeBatch = Callable[..., Batch]
PLAIN = {"llm.convolution": 0, "num_views": 3}


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2), (1,)])
def test_equals_the_plain_way_with_absent_views(
    make_model: Make, make_batch: MakeBatch, present: tuple[int, ...]
) -> None:
    model, batch = make_model(**PLAIN), make_batch(views=3)
    batch.text_kind[batch.text_valid] = 1  # the plain one hides no action tokens
    images = torch.stack([image.permute(0, 3, 1, 2) / 127.5 - 1 for image in batch.images.values()], dim=1)
    mask = torch.tensor([[i in present for i in range(3)]]).expand(3, -1)
    images = torch.where(mask[:, :, None, None, None], images, torch.zeros(()))
    noise = torch.randn(3, 4, 3)
    expected = EagerDM0(model).sample(images, mask, batch.text_ids, batch.text_valid, noise, 4)
    kept = {name: image for i, (name, image) in enumerate(batch.images.items()) if i in present}
    seen = replace(batch, images=kept, image_valid=torch.tensor([[i in present for i in range(3)]] * batch.size))
    found = model.sample(seen, noise=noise[:, None], steps=4).actions[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, PLAIN, {"progress_token": True, "state_token": "expert"}])
def test_sampling_never_makes_the_host_wait(make_model: Make, make_batch: MakeBatch, options: dict) -> None:
    model, batch = make_model(**options), make_batch()
    batch = replace(batch, labels={"progress": torch.zeros(3, 1)} if "progress_token" in options else {})
    noise = torch.randn(3, 1, 4, 3)
    seen = count(lambda: model.sample(batch, noise=noise, steps=3))
    assert seen.operations > 100
    assert seen.synchronising == 0
    # The counter sees what it is there for: the plain way asks the host in every step.
    images, views = torch.zeros(3, 2, 3, 32, 32), torch.ones(3, 2, dtype=torch.bool)
    plain = EagerDM0(make_model(**PLAIN))
    asked = count(lambda: plain.sample(images, views, batch.text_ids, batch.text_valid, noise[:, 0], 3))
    assert asked.synchronising >= 3


def test_sampling_compiles_without_a_graph_break(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(denoise_steps=2, **{"llm.layers": 1}), make_batch()
    noise = torch.randn(3, 1, 4, 3)

    def actions(noise: torch.Tensor) -> torch.Tensor:
        return model.sample(batch, noise=noise).actions

    torch._dynamo.reset()
    compiled = torch.compile(actions, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(noise), actions(noise), atol=1e-5, rtol=1e-5)
