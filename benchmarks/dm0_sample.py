"""The whole of DM0's `sample` against the plain way (benchmarks/eager_dm0.py), and what it saves by what.

    python benchmarks/dm0_sample.py [--size nano] [--steps 10] [--views 3] [--text-length 24] [--pairs 9]

One thread, float32, random weights, no token convolution (as published), cameras of which some may be absent. Parity
first; then the ways run in turn, timed in CPU time, with an A/A comparison that guards the ratio. Operations that reach
the dispatcher and host synchronisations are counted. The last line is JSON.
"""

import argparse
import json

import torch
from eager_dm0 import EagerDM0
from timing import circumstances, count, interleaved

from visuomotor.contract import Batch
from visuomotor.models import make_config
from visuomotor.models.dm0 import DM0

TOLERANCE = 1e-4


def observation(model: DM0, views: int, length: int) -> Batch:
    """One observation with the first `views` of the model's cameras."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    shape = (1, config.image_size, config.image_size, 3)
    return Batch(
        images={
            f"camera{i}": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for i in range(views)
        },
        image_valid=torch.arange(config.num_views)[None] < views,
        text_ids=torch.randint(3, config.vocab_size, (1, length), generator=generator),
        text_valid=torch.ones(1, length, dtype=torch.bool),
        text_kind=torch.ones(1, length, dtype=torch.long),
        text_loss=torch.zeros(1, length, dtype=torch.bool),
        state=torch.zeros(1, config.state_dim),
        actions=None,
        action_valid=None,
        embodiment=torch.zeros(1, dtype=torch.long),
        source=torch.zeros(1, dtype=torch.long),
    )


@torch.no_grad()
def compare(model: DM0, views: int, length: int, steps: int, pairs: int) -> dict[str, object]:
    """Ours against the plain way, with `views` of all cameras present."""
    config = model.config
    batch, eager = observation(model, views, length), EagerDM0(model)
    noise = torch.randn(1, 1, config.horizon, config.action_dim, generator=torch.Generator().manual_seed(1))
    given = [image.permute(0, 3, 1, 2).float() / 127.5 - 1 for image in batch.images.values()]
    given += [torch.zeros_like(given[0])] * (config.num_views - views)
    images, mask = torch.stack(given, dim=1), batch.image_valid

    def ours() -> torch.Tensor:
        return model.sample(batch, noise=noise, steps=steps).actions

    def plain() -> torch.Tensor:
        return eager.sample(images, mask, batch.text_ids, batch.text_valid, noise[:, 0], steps)[:, None]

    def recomputed() -> torch.Tensor:
        x = noise
        for i in range(steps):
            x = x - model.denoise(model.encode(batch), x, torch.full((1, 1), 1 - i / steps)) / steps
        return x

    difference = max((ours() - other()).abs().max().item() for other in (plain, recomputed))
    if difference > TOLERANCE:
        raise SystemExit(f"The ways differ by {difference:.1e}; a ratio between them would mean nothing.")
    if (model.sample(batch, noise=noise + 1, steps=steps).actions - ours()).abs().max() < 1e-3:
        raise SystemExit("The noise does not change the action: nothing is being computed.")
    against, again = interleaved(ours, plain, pairs), interleaved(ours, recomputed, pairs)
    mine, theirs = count(ours), count(plain)
    return {
        "views": views, "max_difference": difference, "ours_ms": against.fast_ms, "plain_ms": against.slow_ms,
        "ratio": against.ratio, "same": against.same, "recomputed_ms": again.slow_ms, "ratio_recomputed": again.ratio,
        "operations": mine.operations, "plain_operations": theirs.operations,
        "synchronisations": mine.synchronising, "plain_synchronisations": theirs.synchronising,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano")
    for name, value in (("steps", 10), ("views", 3), ("text-length", 24), ("pairs", 9)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DM0(make_config("dm0", options.size, num_views=options.views, **{"llm.convolution": 0})).eval()
    rows = [
        compare(model, views, options.text_length, options.steps, options.pairs)
        for views in range(options.views, 0, -1)
    ]
    for row in rows:
        print(
            f"{row['views']} of {options.views} views: {row['ours_ms']:.1f} ms, plainly {row['plain_ms']:.1f} ms "
            f"({row['operations']} against {row['plain_operations']} operations, {row['synchronisations']} against "
            f"{row['plain_synchronisations']} host synchronisations), {row['recomputed_ms']:.1f} ms with the prefix "
            f"computed in every step"
        )
    found = {"benchmark": "dm0_sample", "size": options.size, "steps": options.steps, "rows": rows, **circumstances()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
