"""DexVLA on one's own data: Stage 1 from any robots, then Stages 2 and 3 from public weights and a Stage 1."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from visuomotor.contract import Mixture, ProcessorSource, Run, Source, Stage
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.lerobot import Dataset
from visuomotor.models import make_config
from visuomotor.models.dexvla.config import ScaleDPConfig
from visuomotor.models.dexvla.convert import AUGMENT
from visuomotor.recipes.dexvla import NORMALIZATION
from visuomotor.recipes.own_data import available_levels

__all__ = ["dexvla", "dexvla_expert"]

LORA_ALPHA, LORA_DROPOUT = 4, 0.05  # the published adapters': alpha 256 at rank 64
# Constant learning rates without decay; Stage 3 alone has a cosine.
STAGE = Stage(
    name="", steps=1, mixture=Mixture(sources=()), weight_decay=0.0, final_lr=1.0, precision="house",
    checkpoint_activations=True, validate_every=1000, checkpoint_every=1000,
)  # fmt: skip


def dexvla_expert(
    data: str,
    others: tuple[str, ...] = (),
    size: str = "base",
    sentence: str = "hashed",
    horizon: int | None = None,
    steps: int = 50_000,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> Run:
    """Stage 1 of DexVLA on any LeRobot v3 data sets (--data, --others A,B): the diffusion expert, told the sub-step.

    Robots may differ in cameras, rates and actions. Cameras that some lack are masked. Frames say their sub-step in
    `annotation.subtask`, which `visuomotor data annotate` writes where nobody did.
    size: nano, base (ScaleDP-H), base-L, -B, -S; sentence: "hashed", or the folder or name of a DistilBERT.
    """
    robots = [Dataset(path).require_embodiment() for path in (data, *others)]
    roles = tuple(dict.fromkeys(role for robot in robots for role in robot.roles))
    plain = make_config("dexvla-expert", size)
    config = make_config(
        "dexvla-expert",
        size,
        **{
            "image_roles": roles,
            "head.action_dim": max(plain.action_dim, *(robot.action_dim for robot in robots)),
            "head.state_dim": max(plain.state_dim, *(robot.state_dim for robot in robots)),
            "head.horizon": horizon or plain.horizon,
        },
    )
    processor: dict[str, Any] = {
        "image_roles": roles, "levels": {}, "sentence": sentence, **NORMALIZATION,
        "optional_roles": tuple(role for role in roles if any(role not in robot.roles for robot in robots)),
    }  # fmt: skip
    sources = tuple(Source(name=f"robot{i}", path=path) for i, path in enumerate((data, *others)))
    stage = replace(
        STAGE,
        name="expert",
        steps=steps,
        batch_size=batch_size,
        mixture=Mixture(sources=sources),
        trains={"*": learning_rate},
        seed=seed,
    )
    stages = {"expert": stage}
    return Run(name="dexvla-expert", model="dexvla-expert", config=config, stages=stages, processor=processor)


def dexvla(
    data: str,
    task: str | None = None,
    size: str = "base",
    vlm: str | None = None,
    expert: str | None = None,
    lora: int = 0,
    freeze_vision: bool = True,
    adapt: float = 0.4,
    horizon: int | None = None,
    steps: int = 50_000,
    batch_size: int = 16,
    learning_rate: float = 2e-5,
    seed: int = 0,
) -> Run:
    """Stages 2 and 3 of DexVLA on a LeRobot v3 data set (--data), from public weights (--vlm) and a Stage 1 (--expert).

    task: demonstrations of one task for Stage 3, which is left out without them; adapt: its share of the steps;
    vlm: Qwen/Qwen2-VL-2B-Instruct or its folder, without which all learns from nothing; expert: the published Stage-1
    file, or a checkpoint of `dexvla-expert` of the same ScaleDP, chunk and condition;
    lora: rank of adapters through which the vision-language model learns (published: 64), 0 trains its weights;
    freeze_vision: the vision tower stands still (the paper), or learns (the published script). One from nothing learns.
    """
    if not 0 <= adapt < 1:
        raise ValueError(f"adapt is {adapt}; it is a share of the steps, at least 0 and below 1.")
    dataset = Dataset(data)
    robot, plain = dataset.require_embodiment(), make_config("dexvla", size)
    config = make_config(
        "dexvla",
        size,
        **{
            "num_views": len(robot.cameras),
            "llm.vocab_size": plain.vocab_size if vlm else ProcessorConfig.vocab_size,
            "head.action_dim": max(plain.action_dim, robot.action_dim),
            "head.state_dim": max(plain.state_dim, robot.state_dim),
            "head.horizon": horizon or plain.horizon,
            # The released trunk learned with rounded times, Stage 1 here with exact ones.
            "head.time_table": "bfloat16" if expert and not Path(expert).is_dir() else plain.head.time_table,
            "head_per_embodiment": isinstance(plain.head, ScaleDPConfig),
        },
    )
    processor: dict[str, Any] = {
        "image_roles": robot.roles, "image_size": None, "max_text": 512,
        "levels": available_levels(dataset, {"subtask": 1.0}), "augment": AUGMENT, **NORMALIZATION,
    }  # fmt: skip
    still = ("vision",) if freeze_vision and vlm else ()
    adapters: dict[str, Any] = {}
    if lora:
        adapters = {"lora": lora, "lora_alpha": LORA_ALPHA * lora, "lora_dropout": LORA_DROPOUT}
        adapters["lora_parts"] = ("llm",) if still else ("llm", "vision")
        still = (*still, "embed", "merger")
    align = replace(
        STAGE,
        name="align",
        steps=steps if task is None else max(1, round(steps * (1 - adapt))),
        batch_size=batch_size,
        mixture=Mixture(sources=(Source(name="robot", path=data),)),
        trains={"*": learning_rate, **dict.fromkeys(still, 0.0)},
        seed=seed,
        **adapters,
    )
    stages = {"align": align}
    if task is not None and adapt:
        mixture = Mixture(sources=(Source(name="task", path=task),))
        stages["adapt"] = replace(align, name="adapt", steps=max(1, steps - align.steps), mixture=mixture, final_lr=0.0)
    weights = {part: source for part, source in (("vlm", vlm), ("head", expert)) if source}
    return Run(
        name="dexvla",
        model="dexvla",
        config=config,
        stages=stages,
        weights=weights,
        processor=processor,
        processor_from=ProcessorSource(tokenizer=vlm),
    )
