"""CogACT's `sample` against the way that is published, and what it saves by what.

    python benchmarks/cogact_sample.py [--layers 4] [--wide] [--text-length 24] [--pairs 9]

The published way asks the language model to generate one token: all layers for all tokens, the hidden states of all of
them kept, an output layer over the vocabulary, its best token on the host. Then each denoising step embeds the
condition, with and without the feature, anew. One thread, float32, random weights, one camera. Parity first; then both
ways run in turn, timed in CPU time, with an A/A comparison that guards the ratio. Operations that reach the dispatcher
and host synchronisations are counted. Sizes are nano's; --wide gives the language model LLaMA-2's widths. The last line
is JSON.
"""

import argparse
import json

import torch
from timing import circumstances, count, interleaved
from torch import Tensor
from torch.nn import functional as F
from visuomotor.models.cogact.vlm import prepare_images

from visuomotor.contract import Batch
from visuomotor.models import make_config
from visuomotor.models.cogact import CogACT
from visuomotor.nn.diffusion import squared_cosine
from visuomotor.nn.masks import causal_attention

TOLERANCE = 1e-4
WIDE = {"width": 4096, "mlp_width": 11008, "heads": 32, "kv_heads": 32, "head_dim": 128, "vocab_size": 32064}


def observation(model: CogACT, length: int) -> Batch:
    """One observation of one camera."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    shape = (1, config.image_size, config.image_size, 3)
    return Batch(
        images={"camera": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)},
        image_valid=torch.ones(1, 1, dtype=torch.bool),
        text_ids=torch.randint(3, config.vocab_size, (1, length), generator=generator),
        text_valid=torch.ones(1, length, dtype=torch.bool),
        text_kind=torch.ones(1, length, dtype=torch.long),
        text_loss=torch.zeros(1, length, dtype=torch.bool),
        state=torch.zeros(1, 1),
        actions=None,
        action_valid=None,
        embodiment=torch.zeros(1, dtype=torch.long),
        source=torch.zeros(1, dtype=torch.long),
    )


def feature(model: CogACT, batch: Batch, head: Tensor) -> Tensor:
    """The cognition feature [1, 1, C] by generating a token; `head` [vocabulary, C] is the output layer."""
    vision, llm = model.backbone.vision, model.backbone.llm
    patches, _ = vision(vision.prepare(batch.images["camera"]))
    text = llm.embed_tokens(batch.text_ids)
    x = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
    kept: list[Tensor] = []
    states, _ = llm(x, causal_attention(torch.ones(x.shape[:2], dtype=torch.bool)), hidden=kept)
    int(F.linear(states, head)[0, -1].argmax())
    return states[:, -1:]


def plainly(model: CogACT, batch: Batch, noise: Tensor, head: Tensor) -> Tensor:
    """A chunk [1, T, A] from noise in the published way."""
    action, x = model.head.model, noise
    kept = squared_cosine(action.config.diffusion_steps).alpha_bar.tolist()
    z = feature(model, batch, head)
    stride = action.config.diffusion_steps // model.config.denoise_steps
    for time in range(action.config.diffusion_steps - stride, -1, -stride):
        both = torch.cat([z, action.z_embedder.uncondition[None].expand_as(z)])
        given, without = action(torch.cat([x, x]), torch.full((2,), time), both).chunk(2)
        eps = without + model.config.guidance * (given - without)
        before = kept[time - stride] if time else 1.0
        data = (x - (1 - kept[time]) ** 0.5 * eps) / kept[time] ** 0.5
        x = before**0.5 * data + (1 - before) ** 0.5 * eps
    return x


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", action="store_true")
    for name, value in (("layers", 4), ("text-length", 24), ("pairs", 9)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = {f"llm.{name}": value for name, value in WIDE.items()} if options.wide else {}
    sizes = {"llm.layers": options.layers, "llm.convolution": 0, **widths}
    config = make_config("cogact", "nano", num_views=1, **sizes)
    model = CogACT(config).eval()
    torch.nn.init.normal_(model.head.model.final_layer.linear.weight, std=0.02)  # a fresh one predicts zeros
    batch, noise = observation(model, options.text_length), torch.randn(1, 1, config.horizon, config.action_dim)
    head = torch.randn(config.vocab_size, config.llm.width)

    def ours() -> Tensor:
        return model.sample(batch, noise=noise).actions[:, 0]

    def plain() -> Tensor:
        return plainly(model, batch, noise[:, 0], head)

    difference = (ours() - plain()).abs().max().item()
    if difference > TOLERANCE:
        raise SystemExit(f"The ways differ by {difference:.1e}; a ratio between them would mean nothing.")
    if (model.sample(batch, noise=noise + 1).actions[:, 0] - ours()).abs().max() < 1e-3:
        raise SystemExit("The noise does not change the action: nothing is being computed.")
    timed, encode = (
        interleaved(ours, plain, options.pairs),
        interleaved(lambda: model.encode(batch), lambda: feature(model, batch, head), options.pairs),
    )
    mine, theirs = count(ours), count(plain)
    print(
        f"{timed.fast_ms:.1f} ms, the published way {timed.slow_ms:.1f} ms (feature {encode.fast_ms:.1f} and "
        f"{encode.slow_ms:.1f} ms; {mine.operations} against {theirs.operations} operations, {mine.synchronising} "
        f"against {theirs.synchronising} host synchronisations)"
    )
    found = {
        "benchmark": "cogact_sample", "wide": options.wide, "layers": options.layers, "max_difference": difference,
        "ours_ms": timed.fast_ms, "plain_ms": timed.slow_ms, "ratio": timed.ratio, "same": timed.same,
        "feature_ms": encode.fast_ms, "plain_feature_ms": encode.slow_ms, "feature_ratio": encode.ratio,
        "operations": mine.operations, "plain_operations": theirs.operations,
        "synchronisations": mine.synchronising, "plain_synchronisations": theirs.synchronising, **circumstances(),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
