"""CogACT: from nothing in a simulated world, and from public weights on one's own data as it was published."""

from typing import Any, Literal

from visuomotor.contract import Mixture, ProcessorSource, Run, Source, Stage
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.lerobot import Dataset
from visuomotor.models import make_config
from visuomotor.recipes.worlds import evaluation, require_robot_of, sentences
from visuomotor.simulation.interface import load_world

__all__ = ["cogact", "cogact_nano"]


def cogact_nano(
    data: str = "runs/demo/data",
    world: str = "tabletop",
    tasks: str | None = None,
    distractors: int | None = None,
    steps: int = 4000,
    minutes: float | None = None,
    batch_size: int = 32,
    image_size: int = 96,
    horizon: int = 16,
    learning_rate: float = 1e-3,
    vocabulary: str | None = None,
    start: str | None = None,
    seed: int = 0,
) -> Run:
    """Nano CogACT on demonstrations of a simulated world, for a laptop without a GPU.

    It learns from actions alone and is not told the robot's state, both as published; unlike there it has both cameras.

    data: demonstrations; world: tabletop, metaworld or FILE.py:NAME;
    tasks: those that it is rolled out on, with commas between them (default: all of the tabletop's vocabulary, and of
    Meta-World those that reach, take hold and act, "grasps"); distractors, vocabulary: options of the tabletop;
    start: a checkpoint whose weights and processor it goes on from.

    Raises:
        ValueError: another world, data of another robot, or tasks that the world lacks.
    """
    plan = evaluation(world, tasks=tasks, distractors=distractors, vocabulary=vocabulary)
    require_robot_of(world, data)
    robot = load_world(world).robot
    sides = {"dinov2.image_size": image_size, "siglip.image_size": image_size}
    chunk = {"action_model.horizon": horizon, "action_model.action_dim": robot.action_dim}
    config = make_config("cogact", "nano", num_views=len(robot.cameras), **sides, **chunk)
    processor = {"image_roles": robot.roles, "state_width": max(1, robot.state_dim), "levels": {}, "past_end": "still"}
    source = Source(name="robot", path=data, options={"cache": [image_size, image_size]})
    stage = Stage(
        name="train",
        steps=steps,
        minutes=minutes,
        mixture=Mixture(sources=(source,)),
        batch_size=batch_size,
        trains={"*": learning_rate},
        optimiser="muon",
        start=start,
        ema=0.999,
        validate_every=250,
        validation_batches=2,
        checkpoint_every=250,
        seed=seed,
    )
    return Run(
        name="cogact-nano",
        model="cogact",
        config=config,
        stages={stage.name: stage},
        evaluation=plan,
        processor={} if start else processor,
        processor_from=ProcessorSource(checkpoint=start),
        corpus=sentences(world, vocabulary),
    )


def cogact(
    data: str,
    size: Literal["nano", "base"] = "base",
    dinov2: str | None = None,
    siglip: str | None = None,
    llm: str | None = None,
    views: int = 1,
    horizon: int | None = None,
    steps: int = 30_000,
    batch_size: int = 256,
    accumulate: int = 32,
    learning_rate: float = 2e-5,
    repeated_diffusion_steps: int = 8,
    seed: int = 0,
) -> Run:
    """CogACT on any LeRobot v3 data set (--data) that starts from public towers and LLaMA-2, with published settings.

    dinov2, siglip, llm: names on the Hugging Face Hub or folders, e.g. facebook/dinov2-with-registers-large,
    google/siglip-so400m-patch14-224, meta-llama/Llama-2-7b-hf. Without them a part learns from nothing, and without a
    language model the tokenizer is trained on the data's own words. To go on from a published CogACT or OpenVLA,
    convert it, and take the recipe finetune.
    views: how many cameras are seen, the first ones of the data; published is one. accumulate: micro-batches of a step.
    """
    robot, plain = Dataset(data).require_embodiment(), make_config("cogact", size)
    config = make_config(
        "cogact",
        size,
        **{
            "num_views": views,
            "llm.convolution": 0 if llm else plain.llm.convolution,
            "llm.vocab_size": plain.vocab_size if llm else ProcessorConfig.vocab_size,
            "action_model.action_dim": robot.action_dim,
            "action_model.horizon": horizon or plain.horizon,
            "action_model.repeated_diffusion_steps": repeated_diffusion_steps,
        },
    )
    processor: dict[str, Any] = {
        "image_roles": robot.roles[:views], "image_size": None, "state_width": max(1, robot.state_dim), "levels": {},
        "past_end": "still", "clip_actions": True, "near_constant": 0.0, "binary_grippers": True,
    }  # fmt: skip
    stage = Stage(
        name="train",
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        mixture=Mixture(sources=(Source(name="robot", path=data),)),
        trains={"*": learning_rate},
        warmup=0,
        final_lr=1.0,
        weight_decay=0.0,
        precision="house",
        checkpoint_activations=True,
        validate_every=2500,
        checkpoint_every=2500,
        seed=seed,
    )
    public = (("dinov2", dinov2), ("siglip", siglip), ("llm", llm))
    weights = {part: source for part, source in public if source}
    return Run(
        name="cogact",
        model="cogact",
        config=config,
        stages={"train": stage},
        weights=weights,
        processor=processor,
        processor_from=ProcessorSource(tokenizer=llm),
    )
