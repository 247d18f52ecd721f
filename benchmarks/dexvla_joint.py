"""What the vision-language model costs DexVLA's training: a step of Stage 2 against one of Stage 1, the expert alone.

    python benchmarks/dexvla_joint.py [--batch 32] [--text 60] [--pairs 3]

Nano sizes, the same images and chunks, forward, backward and AdamW; one thread, CPU time, the two ways in turn. At full
size on GPUs the paper has 0.89 epochs an hour for the head alone and 0.32 for all, a ratio of 2.78. The last line is
JSON.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict

import torch
from timing import circumstances, interleaved

from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config, make_model
from visuomotor.models.base import Model

ROLES = ("scene", "wrist")


def training_batch(size: int, text: int, image_id: int, side: int = 96) -> Batch:
    """Two cameras, a prompt with an image item for each, a sub-step in the last quarter, chunks, a sentence."""
    ids = torch.randint(3, 600, (size, text))
    kind = torch.full((size, text), int(TextKind.PROMPT))
    ids[ids == image_id] = 3
    ids[:, : len(ROLES)], kind[:, -(text // 4) :] = image_id, TextKind.SUBTASK
    return Batch(
        images={role: torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8) for role in ROLES},
        image_valid=torch.ones(size, len(ROLES), dtype=torch.bool),
        text_ids=ids,
        text_valid=torch.ones(size, text, dtype=torch.bool),
        text_kind=kind,
        text_loss=kind == TextKind.SUBTASK,
        state=torch.randn(size, 8),
        actions=torch.rand(size, 8, 8) * 2 - 1,
        action_valid=torch.ones(size, 8, 8, dtype=torch.bool),
        embodiment=torch.arange(size) % 2,
        source=torch.zeros(size, dtype=torch.long),
        labels={"sentence": torch.randn(size, 256)},
    )


def training_step(model: Model, batch: Batch) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        model.loss(batch).total.backward()
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 32), ("text", 60), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    robots = {"head.embodiments": ("arm", "sawyer"), "head.action_dims": (7, 4), "head.state_dims": (7, 4)}
    alone = make_model("dexvla-expert", make_config("dexvla-expert", **robots))
    draws = {"head.noise_draws": alone.config.head.noise_draws}
    config = make_config("dexvla", head_per_embodiment=True, **draws, **robots)
    batch = training_batch(given.batch, given.text, config.image_id)
    found = interleaved(training_step(alone, batch), training_step(make_model("dexvla", config), batch), given.pairs)
    print(f"expert alone {found.fast_ms:.0f} ms, with the vision-language model {found.slow_ms:.0f} ms")
    facts = {"benchmark": "dexvla_joint", **vars(given), **asdict(found), "published_ratio": 2.78, **circumstances()}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
