"""What the nano recipes share: a small DM0 that a laptop trains in minutes."""

from typing import Any

from visuomotor.contract import EvalPlan, Mixture, ProcessorSource, Run, Source, Stage
from visuomotor.models import make_config

__all__ = ["nano_run"]

WIDTH = 8  # action and state numbers, padded


def nano_run(
    name: str,
    *,
    sources: tuple[Source, ...],
    evaluation: EvalPlan,
    corpus: tuple[str, ...],
    image_size: int,
    horizon: int,
    steps: int,
    minutes: float | None,
    learning_rate: float,
    start: str | None,
    seed: int,
    levels: dict[str, float],
    gradient_decoupling: bool = True,
    batch_size: int = 32,
) -> Run:
    """One stage "train" of a nano DM0. With `start`, weights and processor come from that checkpoint."""
    config: dict[str, Any] = {
        "vision.image_size": image_size, "horizon": horizon, "action_dim": WIDTH, "state_dim": WIDTH,
        "state_token": "expert", "gradient_decoupling": gradient_decoupling, "noise_draws": 8,
    }  # fmt: skip
    processor: dict[str, Any] = {
        "levels": levels, "coordinates": 100, "action_token_stride": 2, "questions_per_image": 6,
    }  # fmt: skip
    stage = Stage(
        name="train",
        steps=steps,
        minutes=minutes,
        mixture=Mixture(sources=sources),
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
        name=name,
        model="dm0",
        config=make_config("dm0", "nano", **config),
        stages={stage.name: stage},
        evaluation=evaluation,
        processor={} if start else processor,
        processor_from=ProcessorSource(checkpoint=start),
        corpus=corpus,
    )
