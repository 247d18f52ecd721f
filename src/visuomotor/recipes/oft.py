"""OpenVLA-OFT at nano size: CogACT's recipe with the robot's state, and with queries in place of a diffusion head."""

from dataclasses import replace

from visuomotor.contract import Run
from visuomotor.models import make_config
from visuomotor.recipes.cogact import cogact_nano
from visuomotor.simulation.interface import load_world

__all__ = ["oft_nano"]


def oft_nano(
    data: str = "runs/demo/data",
    world: str = "tabletop",
    tasks: str | None = None,
    distractors: int | None = None,
    state: bool = True,
    film: bool = False,
    steps: int = 4000,
    minutes: float | None = None,
    batch_size: int = 32,
    image_size: int = 96,
    horizon: int = 8,
    learning_rate: float = 1e-3,
    vocabulary: str | None = None,
    start: str | None = None,
    seed: int = 0,
) -> Run:
    """Nano OpenVLA-OFT on demonstrations of a simulated world, for a laptop without a GPU.

    world, tasks, distractors: as in cogact-nano.
    state: the model reads the robot's state, as published; film: the text modulates the vision towers (OpenVLA-OFT+).
    start: a checkpoint whose weights and processor it goes on from.
    """
    run = cogact_nano(
        data=data,
        world=world,
        tasks=tasks,
        distractors=distractors,
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        image_size=image_size,
        learning_rate=learning_rate,
        vocabulary=vocabulary,
        start=start,
        seed=seed,
    )
    robot = load_world(world).robot
    sides = {"dinov2.image_size": image_size, "siglip.image_size": image_size}
    config = make_config(
        "oft",
        "nano",
        num_views=len(robot.cameras),
        horizon=horizon,
        action_dim=robot.action_dim,
        state_dim=max(1, robot.state_dim),
        state=state,
        film=film,
        **sides,
    )
    processor = {name: value for name, value in run.processor.items() if name != "state_width"}
    if not start:  # as published: both are bounded by the statistics' quantiles
        processor |= {"clip_actions": True, "clip_state": True}
    return replace(run, name="oft-nano", model="oft", config=config, processor=processor)
