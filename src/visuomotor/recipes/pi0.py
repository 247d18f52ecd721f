"""pi0 and pi0.5 at nano size on the tabletop: first looking, then demonstrations beside grounding questions."""

from dataclasses import replace
from typing import Literal

from visuomotor.contract import Run
from visuomotor.models import make_config
from visuomotor.recipes.tabletop import tabletop_nano
from visuomotor.recipes.worlds import evaluation

__all__ = ["pi0_nano"]


def pi0_nano(
    data: str = "runs/demo/data",
    scenes: str | None = None,
    size: Literal["nano", "nano-pi05"] = "nano",
    gradient_decoupling: bool = False,
    grounding: float = 0.6,
    see: float = 0.2,
    act: float = 0.4,
    steps: int = 4000,
    minutes: float | None = None,
    image_size: int = 96,
    horizon: int = 8,
    vocabulary: str = "small",
    start: str | None = None,
    seed: int = 0,
) -> Run:
    """Nano pi0 or pi0.5 on tabletop demonstrations and grounding questions, for a laptop without a GPU.

    Stages and sources are those of tabletop-nano. The policy acts at once, as the published ones: its texts have no
    levels.

    size: "nano" is pi0 (state token, flow time beside the actions), "nano-pi05" is pi0.5 (state in the text, adaptive
    norms);
    gradient_decoupling: the language model learns from the questions alone (knowledge insulation);
    start: a checkpoint of the same size that training goes on from.
    """
    run = tabletop_nano(
        data=data,
        scenes=scenes,
        grounding=grounding,
        see=see,
        act=act,
        steps=steps,
        minutes=minutes,
        image_size=image_size,
        horizon=horizon,
        vocabulary=vocabulary,
        start=start,
        seed=seed,
    )
    shared = {name: getattr(run.config, name) for name in ("action_dim", "state_dim", "horizon")}
    shapes = {**shared, "vision.image_size": image_size, "gradient_decoupling": gradient_decoupling}
    return replace(
        run,
        name="pi0-nano",
        model="pi0",
        config=make_config("pi0", size, **shapes),
        processor={**run.processor, "levels": {}} if not start else {},
        evaluation=evaluation("tabletop", vocabulary=vocabulary),
    )
