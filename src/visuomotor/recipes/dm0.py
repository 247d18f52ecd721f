"""DM0 from public weights on one's own data."""

from dataclasses import replace
from typing import Any, Literal

from visuomotor.contract import Mixture, ProcessorSource, Run, Source, Stage
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.sources import open_source
from visuomotor.models import make_config
from visuomotor.recipes.own_data import available_levels

__all__ = ["dm0"]

PUBLIC_SHARE = 0.25  # of the learning rate, for weights that know something already: DM0's own 2.5e-5
SPELT_STEPS = 10  # of a chunk, in the line of action tokens, however long the chunk is


def dm0(
    data: str,
    size: Literal["nano", "small", "base"] = "small",
    llm: str | None = None,
    vision: str | None = None,
    lora: int = 0,
    act: float = 0.3,
    horizon: int | None = None,
    steps: int = 20_000,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> Run:
    """A fresh DM0 on any LeRobot v3 data set (--data) that starts from a public language model and vision tower.

    llm, vision: names on the Hugging Face Hub or folders, for size small Qwen/Qwen3-0.6B and
    facebook/PE-Core-S16-384, for base Qwen/Qwen3-1.7B and facebook/PE-Lang-L14-448. Without them a part learns from
    nothing, and without a language model the tokenizer is trained on the data's own words.
    lora: rank of adapters through which the language model learns; 0 trains its weights.
    act: the share of steps at the end in which the vision-language model stands still and the expert learns alone.

    By the estimate of `visuomotor model dm0 --size small --batch-size 16 --text-length 150` the defaults take 19 GB.
    """
    if not 0 <= act < 1:
        raise ValueError(f"act is {act}; it is a share of the steps, at least 0 and below 1.")
    robot = open_source(data).require_embodiment()
    plain = make_config("dm0", size)
    config = make_config(
        "dm0",
        size,
        **{
            "llm.convolution": 0 if llm else plain.llm.convolution,
            "llm.vocab_size": plain.vocab_size if llm else ProcessorConfig.vocab_size,
            "num_views": len(robot.cameras),
            "action_dim": max(plain.action_dim, robot.action_dim),
            "state_dim": max(plain.state_dim, robot.state_dim),
            "state_token": "expert" if robot.state_dim else "none",
            "horizon": horizon or plain.horizon,
            "gradient_decoupling": True,
            "mask_padded": True,
        },
    )
    processor: dict[str, Any] = {
        "image_roles": robot.roles, "max_text": 512,
        "levels": available_levels(open_source(data), {"subtask": 0.5, "action": 0.5}),
        "action_token_stride": max(1, config.horizon // SPELT_STEPS),
    }  # fmt: skip
    known = learning_rate * PUBLIC_SHARE
    public = {"llm": known if llm and not lora else learning_rate, "embed": known if llm else learning_rate}
    train = Stage(
        name="train",
        steps=max(1, round(steps * (1 - act))),
        batch_size=batch_size,
        mixture=Mixture(sources=(Source(name="robot", path=data),)),
        trains={"*": learning_rate, **public, "vision": known if vision else learning_rate},
        lora=lora,
        precision="house",
        checkpoint_activations=True,
        validate_every=1000,
        checkpoint_every=1000,
        seed=seed,
    )
    stages = {"train": train}
    if act > 0:
        expert = {"expert": learning_rate, "action_io": learning_rate}
        last = max(1, round(steps * act))
        stages["act"] = replace(train, name="act", steps=last, trains=expert, lora=0, checkpoint_activations=False)
    weights = {part: source for part, source in (("llm", llm), ("vision", vision)) if source}
    return Run(
        name="dm0",
        model="dm0",
        config=config,
        stages=stages,
        weights=weights,
        processor=processor,
        processor_from=ProcessorSource(tokenizer=llm),
    )
