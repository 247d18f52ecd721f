"""`visuomotor model NAME`: what a model costs, from its own cost methods."""

import json
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from visuomotor.cli.console import console, parse, table

if TYPE_CHECKING:
    from visuomotor.models import Model


@dataclass(frozen=True, kw_only=True)
class Options:
    """Parameters by part; FLOPs, bytes and roofline time of one sample; memory of one training step by what learns.

    Large sizes are built on the meta device. Memory is an estimate (docs/design.md), per micro-batch of --batch-size.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = "dm0"
    """The model."""
    size: str = "base"
    """nano, small or base (the published model)."""
    batch_size: int = 1
    """Observations per sample."""
    text_length: int = 100
    """Prompt tokens."""
    steps: int = 10
    """Denoising steps."""
    tflops: float = 790.0
    """Peak arithmetic of the device in TFLOP/s (default: H200, bf16)."""
    bandwidth: float = 4.3
    """Memory bandwidth of the device in TB/s."""
    bytes_per_value: float = 2.0
    """2 for bf16, 4 for float32."""
    lora: int = 16
    """Rank of the adapters whose training memory is shown."""
    json: bool = False
    """Print JSON."""


def run(arguments: list[str]) -> int:
    options = parse("model", Options, arguments)
    import torch

    from visuomotor.models import make_config, make_model

    with torch.device("meta"):
        model = make_model(options.name, make_config(options.name, options.size))
    parts = {name: sum(p.numel() for p in parameters) for name, parameters in model.parts().items()}
    cost = model.cost(batch_size=options.batch_size, text_length=options.text_length, steps=options.steps)
    rows = []
    for name, part in cost.items():
        moved = part.values_moved * options.bytes_per_value
        seconds = max(part.flops / (options.tflops * 1e12), moved / (options.bandwidth * 1e12))
        rows.append({"part": name, "flops": part.flops, "bytes": moved, "roofline_ms": 1e3 * seconds})
    facts = {
        "model": options.name,
        "size": options.size,
        "parameters": parts,
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "sample": rows,
        "training_memory": memory_rows(model, options),
        "roofline_ms": sum(row["roofline_ms"] for row in rows),
        "device": {"tflops": options.tflops, "bandwidth_tb_s": options.bandwidth},
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    table(f"{options.name} {options.size}", ("part", "parameters"), [(k, f"{v:,}") for k, v in parts.items()])
    console.print(f"total {facts['total_parameters']:,}")
    shown = [
        (r["part"], f"{r['flops'] / 1e9:,.1f}", f"{r['bytes'] / 1e9:.3f}", f"{r['roofline_ms']:.3f}") for r in rows
    ]
    table("one sample", ("part", "GFLOP", "GB moved", "roofline ms"), shown)
    held = [
        (r["learns"], r["precision"], "yes" if r["checkpoint_activations"] else "no", f"{r['total'] / 1e9:.1f}")
        for r in facts["training_memory"]
    ]
    if held:
        table("one training step", ("learns", "precision", "layers again", "GB"), held)
    console.print(f"roofline time {facts['roofline_ms']:.2f} ms at {options.tflops} TFLOP/s, {options.bandwidth} TB/s")
    return 0


def memory_rows(model: "Model", options: Options) -> list[dict[str, Any]]:
    """Memory of a training step, in bytes, for what may learn and how; none where the model does not say."""
    everything, expert = tuple(model.parts()), ("expert", "action_io")
    methods = {"everything": (everything, 0), f"lora {options.lora}": (("llm", *expert), options.lora)}
    rows = []
    for (learns, (trains, lora)), precision, again in product(
        (methods | {"expert": (expert, 0)}).items(), ("house", "float32"), (False, True)
    ):
        held = model.training_memory(
            batch_size=options.batch_size,
            text_length=options.text_length,
            trains=trains,
            lora=lora,
            precision=precision,
            checkpoint_activations=again,
        )
        if held:
            row = {"learns": learns, "precision": precision, "checkpoint_activations": again}
            rows.append({**row, **held, "total": sum(held.values())})
    return rows
