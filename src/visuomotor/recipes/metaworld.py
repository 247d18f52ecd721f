"""Meta-World: tasks that only the words tell apart."""

from visuomotor.contract import EvalPlan, Run, Source
from visuomotor.recipes.nano import nano_run
from visuomotor.recipes.worlds import sentences

__all__ = ["metaworld_pairs"]


def metaworld_pairs(
    data: str = "runs/demo-metaworld/data",
    tasks: str = "pairs",
    steps: int = 6000,
    minutes: float | None = None,
    image_size: int = 96,
    horizon: int = 8,
    learning_rate: float = 2e-3,
    start: str | None = None,
    seed: int = 0,
) -> Run:
    """Nano DM0 on Meta-World's pairs of opposite tasks, which differ in their words only.

    Without boxes to ask after, sub-tasks and action tokens alone would have to teach the model to see, so the flow loss
    reaches it too.
    """
    return nano_run(
        "metaworld-pairs",
        sources=(Source(name="robot", path=data, options={"cache": [image_size, image_size]}),),
        evaluation=EvalPlan(
            environment="metaworld",
            splits=("train", "heldout_paraphrase"),
            execute=horizon,
            think=("subtask",),
            options={"tasks": tasks},
        ),
        corpus=sentences("metaworld"),
        image_size=image_size,
        horizon=horizon,
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate,
        start=start,
        seed=seed,
        levels={"subtask": 0.5, "action": 0.3},
        gradient_decoupling=False,
    )
