"""The tabletop world: first looking, then demonstrations beside a stream of grounding questions."""

from dataclasses import replace

from visuomotor.contract import EvalPlan, Mixture, Run, Source
from visuomotor.recipes.nano import nano_run
from visuomotor.simulation.tabletop.language import corpus, get_vocabulary

__all__ = ["tabletop_nano", "tabletop_pretrain"]

SCRATCH_RATE, START_RATE = 2e-3, 5e-4


def tabletop_nano(
    data: str = "runs/demo/data",
    scenes: str | None = None,
    grounding: float = 0.6,
    see: float = 0.2,
    steps: int = 4000,
    minutes: float | None = None,
    image_size: int = 96,
    horizon: int = 8,
    learning_rate: float | None = None,
    vocabulary: str = "small",
    start: str | None = None,
    seed: int = 0,
) -> Run:
    """Nano DM0 on tabletop demonstrations and grounding questions, for a laptop without a GPU.

    A model from nothing begins with a stage "see", in which it learns where named things are in the first view; one
    that goes on from `start` can see already.

    data: demonstrations; scenes: annotated frames for grounding questions (default: the demonstrations' own);
    grounding: their weight against 1 for the demonstrations, 0 leaves them out, and the stage "see" with them;
    see: that stage's share of the training; learning_rate: 2e-3 from nothing, 5e-4 from `start`, when None.
    """
    cache = {"cache": [image_size, image_size]}
    robot = Source(name="robot", path=data, options=cache)
    boxes, questions = (
        Source(name=name, path=scenes or data, weight=grounding / 2, options={"objective": name, **cache})
        for name in ("boxes", "grounding")
    )
    run = nano_run(
        "tabletop-nano",
        sources=(robot, boxes, questions) if grounding > 0 else (robot,),
        evaluation=EvalPlan(
            environment="tabletop",
            splits=("train", "heldout_combination"),
            execute=horizon,
            think=("subtask", "box"),
            options={"vocabulary": vocabulary},
        ),
        corpus=tuple(sorted(set(corpus(get_vocabulary(vocabulary))))),
        image_size=image_size,
        horizon=horizon,
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate or (START_RATE if start else SCRATCH_RATE),
        start=start,
        seed=seed,
        levels={"subtask": 0.7, "box": 0.9, "action": 0.5},
    )
    return run if start or not grounding > 0 or not see > 0 else _begin_with_looking(run, boxes, see)


def tabletop_pretrain(
    data: str = "runs/pretrain/data",
    scenes: str | None = "runs/pretrain/scenes",
    grounding: float = 0.6,
    see: float = 0.2,
    steps: int = 100_000,
    minutes: float | None = 60,
    seed: int = 0,
) -> Run:
    """A checkpoint for the demo to start from: nano DM0 trained longer and on more data than the demo has time for."""
    run = tabletop_nano(data=data, scenes=scenes, grounding=grounding, see=see, steps=steps, minutes=minutes, seed=seed)
    return replace(run, name="tabletop-pretrain")


def _begin_with_looking(run: Run, boxes: Source, share: float) -> Run:
    """The run with a stage "see" taken from its time and steps."""
    train = run.stages["train"]

    def part(name: str, of: float, mixture: Mixture) -> dict:
        minutes = None if train.minutes is None else train.minutes * of
        return {name: replace(train, name=name, steps=max(1, round(train.steps * of)), minutes=minutes, mixture=mixture)}

    looking = replace(train.mixture, sources=(boxes,))
    return replace(run, stages=part("see", share, looking) | part("train", 1 - share, train.mixture))
