"""`visuomotor model NAME`: what a model costs, counted in runs on the meta device."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from visuomotor.cli.console import console, parse, table

if TYPE_CHECKING:
    from visuomotor.models import Model


@dataclass(frozen=True, kw_only=True)
class Options:
    """Parameters by part; FLOPs, bytes and roofline time of one sample; with --training memory of one training step.

    Everything is counted on the meta device, without weights. Memory is an estimate (docs/design.md), per micro-batch
    of --batch-size.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = "dm0"
    """The model, or FILE.py:NAME of a ModelSpec of your own."""
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
    training: bool = False
    """Count the memory of a training step, too, which takes about 20 s for a model of 2 billion parameters."""
    lora: int = 16
    """Rank of the adapters whose training memory is shown."""
    precision: Literal["house", "float32"] = "house"
    """Precision of the training step whose memory is shown."""
    json: bool = False
    """Print JSON."""


def run(arguments: list[str]) -> int:
    options = parse("model", Options, arguments)
    import torch

    from visuomotor.models import find_spec, make_config, make_model
    from visuomotor.models.cost import count_parameters, sample_cost

    spec = find_spec(options.name)
    with torch.device("meta"):
        model = make_model(options.name, make_config(options.name, options.size))
    parts, rows = count_parameters(model), []
    for name, part in sample_cost(model, options.batch_size, options.text_length, options.steps).items():
        moved = part.values_moved * options.bytes_per_value
        seconds = max(part.flops / (options.tflops * 1e12), moved / (options.bandwidth * 1e12))
        rows.append({"part": name, "flops": part.flops, "bytes": moved, "roofline_ms": 1e3 * seconds})
    facts = {
        "model": options.name,
        "size": options.size,
        "recipe": spec.recipe,
        "public_weights": spec.weights,
        "robots": list(spec.robots),
        "exceptions": spec.exceptions,
        "parameters": parts,
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "sample": rows,
        "training_memory": memory_rows(model, spec.acting, options) if options.training else [],
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
    if spec.recipe:
        console.print(f"recipe {spec.recipe}")
    for name, sources in spec.weights.items():
        console.print(f"public weights of {name}: {', '.join(sources)}")
    for name, what in spec.exceptions.items():
        console.print(f"{name}, as published: {what}")
    console.print(f"roofline time {facts['roofline_ms']:.2f} ms at {options.tflops} TFLOP/s, {options.bandwidth} TB/s")
    return 0


def memory_rows(model: "Model", acting: Collection[str], options: Options) -> list[dict[str, Any]]:
    """Memory of a training step, in bytes, for what may learn and how."""
    from visuomotor.training.memory import training_memory

    parts = model.parts()
    expert = tuple(part for part in acting if part in parts)
    methods: dict[str, tuple[tuple[str, ...], int]] = {"everything": (tuple(parts), 0)}
    if "llm" in parts:
        methods[f"lora {options.lora}"] = (("llm", *expert), options.lora)
    if expert:
        methods["expert"] = (expert, 0)
    rows = []
    again_or_not = (False, True) if model.can_checkpoint else (False,)
    for (learns, (trains, lora)), again in product(methods.items(), again_or_not):
        held = training_memory(
            model,
            batch_size=options.batch_size,
            text_length=options.text_length,
            trains=trains,
            lora=lora,
            precision=options.precision,
            checkpoint_activations=again,
        )
        row = {"learns": learns, "precision": options.precision, "checkpoint_activations": again}
        rows.append({**row, **held, "total": sum(held.values())})
    return rows
