"""A policy from nothing on one's own data."""

from visuomotor.contract import Mixture, Run, Source, Stage
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.sources import open_source
from visuomotor.models import make_config
from visuomotor.text.scaffold import LEVEL_NEEDS

__all__ = ["available_levels", "conversation_sources", "own_data"]

TALK = 0.3  # weight of conversations against 1 for the robot's data


def own_data(
    data: str,
    conversations: str | None = None,
    steps: int = 4000,
    minutes: float | None = None,
    batch_size: int = 64,
    image_size: int = 96,
    horizon: int = 8,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Run:
    """Nano DM0 from nothing on any LeRobot v3 data set (--data): cameras and widths are those of its robot.

    Sub-task text is learnt beside the actions where the data is annotated with it. The settings are those that proved
    themselves on Meta-World, which has no boxes to ask after either.

    conversations: a LLaVA file (.json, .jsonl), images beside it, that is learnt from beside the robot's data.

    Raises:
        FileNotFoundError: the data set has no embodiment.json.
    """
    dataset = open_source(data)
    robot = dataset.require_embodiment()
    levels = available_levels(dataset, {"subtask": 0.5, "action": 0.3})
    stage = Stage(
        name="train",
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        mixture=Mixture(sources=(Source(name="robot", path=data), *conversation_sources(conversations))),
        trains={"*": learning_rate},
        optimiser="muon",
        ema=0.999,
        validate_every=250,
        validation_batches=2,
        checkpoint_every=250,
        seed=seed,
    )
    config = make_config(
        "dm0",
        "nano",
        **{
            "vision.image_size": image_size,
            "num_views": len(robot.cameras),
            "horizon": horizon,
            "action_dim": robot.action_dim,
            "state_dim": max(1, robot.state_dim),
            "state_token": "expert" if robot.state_dim else "none",
            "gradient_decoupling": False,
            "noise_draws": 8,
        },
    )
    processor = {"image_roles": robot.roles, "levels": levels}
    return Run(name="own-data", model="dm0", config=config, stages={"train": stage}, processor=processor)


def conversation_sources(path: str | None) -> tuple[Source, ...]:
    """The conversation file as a source, none for None."""
    return (Source(name="talk", path=path, weight=TALK, options={"objective": "conversation"}),) if path else ()


def available_levels(dataset: EpisodeSource, levels: dict[str, float]) -> dict[str, float]:
    """Those of the scaffold levels whose annotations the data set has."""
    return {level: p for level, p in levels.items() if level not in LEVEL_NEEDS or dataset.has(LEVEL_NEEDS[level])}
