"""What one optimiser step of a DM0 costs: operations and CPU time per sample, AdamW included.

    python benchmarks/dm0_train_step.py [--size nano] [--batch 64] [--text 80] [--steps 6]

One thread, float32, random data; the operations of matrix products and convolutions, attention left out as
torch's counter does on CPUs. The last line is JSON.
"""

import argparse
import json
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config, make_model
from visuomotor.versions import commit


def training_batch(config: object, size: int, text: int) -> Batch:
    """`size` samples with all cameras, a prompt, a sub-task and action tokens."""
    side, views = config.image_size, range(config.num_views)  # type: ignore[attr-defined]
    shape = (size, config.horizon, config.action_dim)  # type: ignore[attr-defined]
    kind = torch.full((size, text), int(TextKind.PROMPT))
    kind[:, text // 5 : text // 3], kind[:, text // 3 :] = TextKind.SUBTASK, TextKind.ACTION
    return Batch(
        images={f"view{v}": torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8) for v in views},
        image_valid=torch.ones(size, len(views), dtype=torch.bool),
        text_ids=torch.randint(3, 600, (size, text)),
        text_valid=torch.ones(size, text, dtype=torch.bool),
        text_kind=kind,
        text_loss=kind != TextKind.PROMPT,
        state=torch.randn(size, config.state_dim),  # type: ignore[attr-defined]
        actions=torch.randn(shape),
        action_valid=torch.ones(shape, dtype=torch.bool),
        embodiment=torch.zeros(size, dtype=torch.long),
        source=torch.zeros(size, dtype=torch.long),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano")
    for name, value in (("batch", 64), ("text", 80), ("steps", 6)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = make_config("dm0", given.size)
    model, batch = make_model("dm0", config), training_batch(config, given.batch, given.text)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        began = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        model.loss(batch).total.backward()
        optimiser.step()
        return time.process_time() - began

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = statistics.median(step() for _ in range(given.steps))
    facts = {
        "benchmark": "dm0_train_step", "size": given.size, "batch": given.batch, "text_tokens": given.text,
        "gflop_per_sample": round(counter.get_total_flops() / given.batch / 1e9, 3), "cpu_seconds": round(seconds, 3),
        "samples_per_cpu_second": round(given.batch / seconds, 1), "torch": torch.__version__, "commit": commit(),
    }  # fmt: skip
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
