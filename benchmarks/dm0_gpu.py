"""DM0 on a GPU: the whole `sample` captured in one CUDA graph, beside what the device's limits allow; memory, too.

    python benchmarks/dm0_gpu.py [--size base] [--steps 10] [--text-length 100] [--repeats 50]
                                 [--tflops 790] [--bandwidth 4.3] [--train expert] [--batch-size 1]

Random weights in the published precision (bfloat16, but for what the reference keeps in float32). For 3, 2 and 1 of
3 views: the captured call must equal the eager one and follow its inputs; then both are timed by the device's events
and printed beside the roofline from the model's own operations and traffic, for which --tflops and --bandwidth (TB/s)
are the device's. --train NAME (expert or everything) measures the peak memory of a training step's forward and backward
pass, and prints it beside the estimate. The last line is JSON.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from dm0_sample import observation
from timing import circumstances, count

from visuomotor.contract import Batch
from visuomotor.models import make_config
from visuomotor.models.cost import sample_cost
from visuomotor.models.dm0 import DM0
from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.dm0.tensors import assign
from visuomotor.training.memory import training_memory

BYTES = 2  # of a bfloat16 number
TOLERANCE = 1e-2  # of the actions' largest: the graph may choose other bfloat16 kernels than the eager call
TRAINS = {
    "expert": ("expert", "action_io"),
    "everything": ("vision", "projector", "llm", "embed", "expert", "action_io"),
}


def published(config: DM0Config, device: torch.device) -> DM0:
    """Random weights, types as the published code casts them."""
    with device:
        tensors = DM0(config).state_dict()
    with torch.device("meta"):
        model = DM0(config)
    assign(model, tensors, "reference")
    return model.eval()


def capture(run: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """The graph of one call, and the tensor that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # kernels are chosen and tables are made before anything is recorded
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph, out


def milliseconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Of each call, by the device's clock."""
    found = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end))
    return found


@torch.no_grad()
def measure(model: DM0, views: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Latency of one view count, captured and eager, beside the roofline."""
    config = model.config
    batch = observation(model, views, options.text_length).to(device)
    noise = torch.randn(1, 1, config.horizon, config.action_dim, device=device)

    def run() -> torch.Tensor:
        return model.sample(batch, noise=noise, steps=options.steps).actions

    graph, actions = capture(run)
    for seed in range(2):  # a graph that ignored its inputs would fail the second time
        noise.copy_(torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        expected = run()
        off = ((actions - expected).abs().max() / expected.abs().max()).item()
        if not off < TOLERANCE:
            raise SystemExit(f"The captured call differs from the eager one by {off:.1e}; its time would mean nothing.")
    captured, eager = milliseconds(graph.replay, options.repeats), milliseconds(run, min(options.repeats, 10))
    with torch.device("meta"):
        seen_by = DM0(replace(config, num_views=views))
    parts = sample_cost(seen_by, 1, options.text_length, options.steps).values()
    roofline = 1e3 * sum(
        max(part.flops / (options.tflops * 1e12), BYTES * part.values_moved / (options.bandwidth * 1e12))
        for part in parts
    )
    seen, slow = count(run), sorted(captured)[-1 - len(captured) // 20]
    return {
        "views": views, "captured_ms": statistics.median(captured), "captured_p95_ms": slow,
        "eager_ms": statistics.median(eager), "roofline_ms": roofline, "operations": seen.operations,
        "synchronisations": seen.synchronising, "relative_difference": off,
    }  # fmt: skip


def peak_of_training(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Peak of forward and backward pass in "house" precision, against the estimate without the optimiser's state."""
    with device:
        model = DM0(make_config("dm0", options.size)).train()
    trains, parts = TRAINS[options.train], model.parts()
    for name, own in parts.items():
        for parameter in own:
            parameter.requires_grad_(name in trains)
    batch = supervised(model, options).to(device)
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", torch.bfloat16):
        losses = model.loss(batch, generator=torch.Generator(device).manual_seed(0))
    losses.total.backward()
    sizes = {"batch_size": options.batch_size, "text_length": options.text_length}
    estimate = training_memory(model, **sizes, trains=trains)
    return {
        "trains": options.train, "batch_size": options.batch_size,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "estimate_gb": sum(size for use, size in estimate.items() if use != "optimiser") / 1e9,
    }  # fmt: skip


def supervised(model: DM0, options: argparse.Namespace) -> Batch:
    """`--batch-size` observations with actions, every text token supervised."""
    one, config, size = (
        observation(model, model.config.num_views, options.text_length),
        model.config,
        options.batch_size,
    )
    rows = one.map(lambda tensor: tensor.expand(size, *tensor.shape[1:]))
    return replace(
        rows,
        text_loss=rows.text_valid,
        actions=torch.randn(size, config.horizon, config.action_dim),
        action_valid=torch.ones(size, config.horizon, config.action_dim, dtype=torch.bool),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--train", choices=TRAINS)
    for name, value in (("steps", 10), ("text-length", 100), ("repeats", 50), ("batch-size", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("tflops", 790.0), ("bandwidth", 4.3)):
        parser.add_argument(f"--{name}", type=float, default=value)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("This benchmark needs a CUDA device; `python benchmarks/dm0_sample.py` runs on CPUs.")
    device = torch.device("cuda")
    torch.manual_seed(0)
    config = make_config("dm0", options.size, num_views=3, **{"llm.convolution": 0})
    model, rows = published(config, device), []
    for views in (3, 2, 1):
        rows.append(row := measure(model, views, options, device))
        share = 100 * row["roofline_ms"] / row["captured_ms"]
        print(
            f"{views} of 3 views at {config.image_size} px: {row['captured_ms']:.2f} ms in one graph (p95 "
            f"{row['captured_p95_ms']:.2f}), eager {row['eager_ms']:.2f} ms; roofline {row['roofline_ms']:.2f} ms = "
            f"{share:.0f} %; {row['operations']} operations, {row['synchronisations']} host synchronisations"
        )
    found: dict[str, Any] = {"benchmark": "dm0_gpu", "size": options.size, "steps": options.steps, "rows": rows}
    found |= {"peak_sample_gb": torch.cuda.max_memory_allocated() / 1e9, "device": torch.cuda.get_device_name()}
    if options.train:
        del model
        torch.cuda.empty_cache()
        found["training"] = peak_of_training(options, device)
        print("training step: {peak_gb:.1f} GB at most, estimated {estimate_gb:.1f} GB".format(**found["training"]))
    print(json.dumps({**found, **circumstances()}))


if __name__ == "__main__":
    main()
