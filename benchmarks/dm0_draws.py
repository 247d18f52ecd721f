"""K noise draws that share a prefix in one training step, against K passes over the same samples.

    python benchmarks/dm0_draws.py [--size nano] [--draws 4] [--batch 16] [--pairs 7]

One thread, float32. Gradients are compared first; then both ways run in turn, timed in CPU time. The last line is JSON.
"""

import argparse
import json

import torch
from dm0_train_step import training_batch
from timing import circumstances, interleaved

from visuomotor.models import make_config, make_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano")
    for name, value in (("draws", 4), ("batch", 16), ("text", 40), ("pairs", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = make_config("dm0", given.size, gradient_decoupling=False, text_weight=0.0, action_tokens_weight=0.0)
    model, batch = make_model("dm0", config), training_batch(config, given.batch, given.text)
    noise = torch.randn(given.batch, given.draws, config.horizon, config.action_dim)
    time = torch.rand(given.batch, given.draws)

    def shared() -> None:
        model.zero_grad(set_to_none=True)
        model.loss(batch, noise=noise, time=time).total.backward()

    def separate() -> None:
        model.zero_grad(set_to_none=True)
        for k in range(given.draws):
            (model.loss(batch, noise=noise[:, k : k + 1], time=time[:, k : k + 1]).total / given.draws).backward()

    def gradient() -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    shared()
    one = gradient()
    separate()
    difference = ((gradient() - one).norm() / one.norm()).item()
    if difference > 1e-4:
        raise SystemExit(f"The gradients differ by {difference:.1e} of their norm; a ratio would mean nothing.")
    timed = interleaved(shared, separate, given.pairs)
    print(
        f"{given.draws} draws: {timed.fast_ms:.0f} ms sharing a prefix, {timed.slow_ms:.0f} ms in passes of their own"
    )
    found = {
        "benchmark": "dm0_draws", "size": given.size, "draws": given.draws, "batch": given.batch,
        "gradient_difference": difference, "shared_ms": timed.fast_ms, "separate_ms": timed.slow_ms,
        "ratio": timed.ratio, "same": timed.same, **circumstances(),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
