"""DAM-VLA at nano size: CogACT's recipe with the switches, and the weights and labels that they need."""

from dataclasses import replace
from typing import Any, Literal

from visuomotor.contract import Run
from visuomotor.data.weighting import Signal, WeightingConfig
from visuomotor.models.damvla import DAMVLAConfig, switches
from visuomotor.recipes.cogact import cogact_nano

__all__ = ["damvla_nano"]


def damvla_nano(
    data: str = "runs/demo/data",
    world: str = "tabletop",
    tasks: str | None = None,
    distractors: int | None = None,
    combination: str = "full",
    signal: Signal = "gripper",
    covers: Literal["changes", "phases"] = "changes",
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
    """Nano DAM-VLA on demonstrations of a simulated world, for a laptop without a GPU.

    world, tasks, distractors: as in cogact-nano.
    combination: of the switches VT, ACW, TW, DAM, DL, as published: base (none, which is CogACT), vt-acw, vt-acw-tw,
    vt-acw-tw-dam, full, no-vt, dam-dl; single ones are set by --config.vt false and so on.
    signal, covers: what tells that the robot manipulates: gripper (published), contact, speed or proximity; its changes
    (published) or the whole phases. The gripper's command is blind to pushing.
    start: a checkpoint whose weights it goes on from; both heads begin as a CogACT's.
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
        horizon=horizon,
        learning_rate=learning_rate,
        vocabulary=vocabulary,
        start=start,
        seed=seed,
    )
    fields: dict[str, Any] = {**vars(run.config), **switches(combination)}
    config = DAMVLAConfig(**fields)
    # Whatever the switches are, which read what they need: so --config.tw true finds it.
    made: dict[str, Any] = {
        "weights": ("trajectory", "chunk"), "router": True, "weighting": WeightingConfig(signal=signal, covers=covers),
    }  # fmt: skip
    return replace(run, name="damvla-nano", model="damvla", config=config, processor={**run.processor, **made})
