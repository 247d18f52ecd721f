"""The tabletop world: demonstrations beside a stream of grounding questions."""

from dataclasses import replace

from visuomotor.contract import EvalPlan, Run, Source
from visuomotor.recipes.nano import nano_run
from visuomotor.simulation.tabletop.language import corpus, get_vocabulary

__all__ = ["tabletop_nano", "tabletop_pretrain"]


def tabletop_nano(
    data: str = "runs/demo/data",
    scenes: str | None = None,
    grounding: float = 1.0,
    steps: int = 4000,
    minutes: float | None = None,
    image_size: int = 96,
    horizon: int = 8,
    learning_rate: float = 1e-3,
    vocabulary: str = "small",
    start: str | None = None,
    seed: int = 0,
) -> Run:
    """Nano DM0 on tabletop demonstrations and grounding questions, for a laptop without a GPU.

    data: demonstrations; scenes: annotated frames for grounding questions (default: the demonstrations' own);
    grounding: their weight against 1 for the demonstrations, 0 leaves them out.
    """
    cache = {"cache": [image_size, image_size]}
    sources = [Source(name="robot", path=data, options=cache)]
    if grounding > 0:
        options = {"objective": "grounding", **cache}
        sources.append(Source(name="grounding", path=scenes or data, weight=grounding, options=options))
    return nano_run(
        "tabletop-nano",
        sources=tuple(sources),
        evaluation=EvalPlan(
            environment="tabletop",
            splits=("train", "heldout_combination"),
            execute=horizon,
            think=("subtask",),
            options={"vocabulary": vocabulary},
        ),
        corpus=tuple(sorted(set(corpus(get_vocabulary(vocabulary))))),
        image_size=image_size,
        horizon=horizon,
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate,
        start=start,
        seed=seed,
        levels={"subtask": 0.5, "action": 1.0},
    )


def tabletop_pretrain(
    data: str = "runs/pretrain/data",
    scenes: str | None = "runs/pretrain/scenes",
    grounding: float = 1.5,
    steps: int = 100_000,
    minutes: float | None = 60,
    seed: int = 0,
) -> Run:
    """A checkpoint for the demo to start from: nano DM0 trained longer and on more data than the demo has time for."""
    run = tabletop_nano(data=data, scenes=scenes, grounding=grounding, steps=steps, minutes=minutes, seed=seed)
    return replace(run, name="tabletop-pretrain")
