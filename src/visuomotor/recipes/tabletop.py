"""The tabletop world: first looking, then demonstrations beside a stream of grounding questions, then acting alone."""

from dataclasses import replace

from visuomotor.contract import Run, Source
from visuomotor.recipes.nano import nano_run
from visuomotor.recipes.worlds import evaluation, sentences

__all__ = ["tabletop_nano", "tabletop_pretrain"]

SCRATCH_RATE, START_RATE = 2e-3, 5e-4


def tabletop_nano(
    data: str = "runs/demo/data",
    anywhere: str | None = None,
    scenes: str | None = None,
    grounding: float = 0.6,
    questions: float = 0.0,
    see: float = 0.2,
    act: float = 0.4,
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
    that goes on from `start` can see already. In "train" everything learns from everything. In "act" the
    vision-language model stands still, and the action expert learns from demonstrations alone, more of them a second.

    data: demonstrations; anywhere: more of them, as many in a batch (for starts away from home);
    scenes: annotated frames for grounding questions (default: the demonstrations' own);
    grounding: their weight against 1 for the demonstrations, 0 leaves them out, and the stage "see" with them;
    questions: weight of questions of every kind (captions, counts, colours, relations, ...) on the same frames;
    see, act: shares of these stages in the training, 0 leaves one out;
    learning_rate: 2e-3 from nothing, 5e-4 from `start`, when None.
    """
    cache = {"cache": [image_size, image_size]}
    robot = [Source(name="robot", path=data, options=cache)]
    if anywhere:
        robot.append(Source(name="anywhere", path=anywhere, options=cache))
    boxes, places = (
        Source(name=name, path=scenes or data, weight=grounding / 2, options={"objective": name, **cache})
        for name in ("boxes", "grounding")
    )
    looking = (boxes, places) if grounding > 0 else ()
    options = {"objective": "questions", **cache}
    asking = (Source(name="questions", path=scenes or data, weight=questions, options=options),) if questions else ()
    run = nano_run(
        "tabletop-nano",
        sources=(*robot, *looking, *asking),
        evaluation=evaluation("tabletop", think=("subtask", "box"), vocabulary=vocabulary),
        corpus=sentences("tabletop", vocabulary),
        image_size=image_size,
        horizon=horizon,
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate or (START_RATE if start else SCRATCH_RATE),
        start=start,
        seed=seed,
        levels={"subtask": 0.7, "box": 0.9, "action": 0.5},
    )
    return _staged(run, see=see if grounding > 0 and not start else 0.0, act=act, boxes=boxes, robot=tuple(robot))


def tabletop_pretrain(
    data: str = "runs/pretrain/data",
    anywhere: str | None = "runs/pretrain/anywhere",
    scenes: str | None = "runs/pretrain/scenes",
    grounding: float = 0.6,
    see: float = 0.15,
    act: float = 0.4,
    steps: int = 100_000,
    minutes: float | None = 60,
    seed: int = 0,
) -> Run:
    """A checkpoint for the demo to start from: nano DM0 trained longer and on more data than the demo has time for.

    data, anywhere, scenes: see src/visuomotor/checkpoints/README.md for the commands that collect them.
    """
    run = tabletop_nano(
        data=data,
        anywhere=anywhere,
        scenes=scenes,
        grounding=grounding,
        see=see,
        act=act,
        steps=steps,
        minutes=minutes,
        seed=seed,
    )
    return replace(run, name="tabletop-pretrain")


def _staged(run: Run, *, see: float, act: float, boxes: Source, robot: tuple[Source, ...]) -> Run:
    """The run with stages "see" and "act", whose shares are taken from the time and steps of "train"."""
    if min(see, act) < 0 or see + act > 1:
        raise ValueError(f"see is {see} and act {act}; they are shares of the training, which add up to at most 1.")
    train = run.stages["train"]
    rate = train.trains["*"]
    stages = {}
    for name, share, sources, trains in (
        ("see", see, (boxes,), train.trains),
        ("train", 1 - see - act, train.mixture.sources, train.trains),
        ("act", act, robot, {"expert": rate, "action_io": rate}),
    ):
        if share > 0:
            minutes = None if train.minutes is None else train.minutes * share
            stages[name] = replace(
                train,
                name=name,
                steps=max(1, round(train.steps * share)),
                minutes=minutes,
                mixture=replace(train.mixture, sources=sources),
                trains=trains,
                start=train.start if not stages else None,
            )
    return replace(run, stages=stages)
