"""DM0 sampling with the prefix computed once, against recomputing it at every denoising step.

    python benchmarks/dm0_sample.py [--size nano] [--steps 10] [--batch 1] [--pairs 9]

One thread, float32, random weights. Parity is checked first; then both ways run in turn, timed in CPU time of the
process. An A/A comparison guards the ratio: when it is off by more than 5 % no ratio is printed. The last line is JSON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from visuomotor.contract import Batch
from visuomotor.models import make_config
from visuomotor.models.dm0 import DM0


def observation(model: DM0, size: int, length: int) -> Batch:
    config, generator = model.config, torch.Generator().manual_seed(0)
    shape = (size, config.image_size, config.image_size, 3)
    return Batch(
        images={
            f"camera{i}": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
            for i in range(config.num_views)
        },
        views=(True,) * config.num_views,
        text_ids=torch.randint(3, config.vocab_size, (size, length), generator=generator),
        text_valid=torch.ones(size, length, dtype=torch.bool),
        text_kind=torch.ones(size, length, dtype=torch.long),
        text_loss=torch.zeros(size, length, dtype=torch.bool),
        state=torch.zeros(size, config.state_dim),
        actions=None,
        action_valid=None,
        embodiment=torch.zeros(size, dtype=torch.long),
        source=torch.zeros(size, dtype=torch.long),
    )


def recomputed(model: DM0, batch: Batch, noise: torch.Tensor, steps: int) -> torch.Tensor:
    x = noise
    for i in range(steps):
        t = torch.full(noise.shape[:2], 1 - i / steps)
        x = x - model.denoise(model.encode(batch), x, t) / steps
    return x


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--text-length", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DM0(make_config("dm0", options.size))
    batch = observation(model, options.batch, options.text_length)
    noise = torch.randn(options.batch, 1, model.config.horizon, model.config.action_dim)

    def cached() -> torch.Tensor:
        return model.sample(batch, noise=noise, steps=options.steps).actions

    def slow() -> torch.Tensor:
        return recomputed(model, batch, noise, options.steps)

    difference = (cached() - slow()).abs().max().item()
    if difference > 1e-4:
        raise SystemExit(f"The two ways differ by {difference:.1e}; a ratio between them would mean nothing.")
    other = model.sample(batch, noise=noise + 1, steps=options.steps).actions
    if (other - cached()).abs().max() < 1e-3:
        raise SystemExit("The noise does not change the action: nothing is being computed.")
    rows = [(seconds(cached), seconds(slow), seconds(cached)) for _ in range(options.pairs)]
    again = statistics.median(a / b for a, _, b in rows)
    ratio = statistics.median(b / a for a, b, _ in rows)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    found = {
        "benchmark": "dm0_sample",
        "size": options.size,
        "batch": options.batch,
        "steps": options.steps,
        "max_difference": difference,
        "cached_ms": 1e3 * statistics.median(a for a, _, _ in rows),
        "recomputed_ms": 1e3 * statistics.median(b for _, b, _ in rows),
        "ratio_same": again,
        "ratio": ratio if abs(again - 1) < 0.05 else None,
        "ratio_best": min(b for _, b, _ in rows) / min(a for a, _, _ in rows),
        "torch": torch.__version__,
        "cpu": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "commit": commit.stdout.strip(),
    }
    print(f"parity {difference:.1e}; cached {found['cached_ms']:.1f} ms, recomputed {found['recomputed_ms']:.1f} ms")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
