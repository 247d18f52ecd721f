"""CogACT on the tabletop: one stage in which everything learns from demonstrations."""

from visuomotor.contract import EvalPlan, Mixture, Run, Source, Stage
from visuomotor.models import make_config
from visuomotor.recipes.nano import WIDTH
from visuomotor.simulation.tabletop.language import corpus, get_vocabulary

__all__ = ["cogact_nano"]


def cogact_nano(
    data: str = "runs/demo/data",
    steps: int = 4000,
    minutes: float | None = None,
    batch_size: int = 32,
    image_size: int = 96,
    horizon: int = 16,
    learning_rate: float = 1e-3,
    vocabulary: str = "small",
    start: str | None = None,
    seed: int = 0,
) -> Run:
    """Nano CogACT on tabletop demonstrations, for a laptop without a GPU.

    It learns from actions alone and is not told the robot's state, both as published; unlike there it has both cameras.

    data: demonstrations; start: a checkpoint whose weights and processor it goes on from.
    """
    config = make_config("cogact", "nano", image_size=image_size, horizon=horizon, action_dim=WIDTH)
    processor = {
        "image_size": image_size, "horizon": horizon, "action_width": WIDTH, "state_width": WIDTH, "levels": {},
        "prompt": "cogact", "past_end": "still",
    }  # fmt: skip
    robot = Source(name="robot", path=data, options={"cache": [image_size, image_size]})
    stage = Stage(
        name="train",
        steps=steps,
        minutes=minutes,
        mixture=Mixture(sources=(robot,)),
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
        evaluation=EvalPlan(
            environment="tabletop",
            splits=("train", "heldout_combination"),
            execute=4,
            think=(),
            options={"vocabulary": vocabulary},
        ),
        processor={"checkpoint": start} if start else processor,
        corpus=tuple(sorted(set(corpus(get_vocabulary(vocabulary))))),
    )
