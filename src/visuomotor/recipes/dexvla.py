"""DexVLA's curriculum at nano size: the expert alone, then with a vision-language model, then one task."""

from dataclasses import replace
from typing import Any, Literal

from visuomotor.contract import Mixture, Run, Source, Stage
from visuomotor.models import make_config
from visuomotor.recipes.worlds import evaluation, require_robot_of, sentences

__all__ = ["dexvla_nano"]

WIDTH = 8  # action and state numbers, padded
NORMALIZATION = {"action_normalization": "min_max", "state_normalization": "z_score"}
# A constant learning rate and no decay, as in the paper's Stage 1.
STAGE = Stage(
    name="", steps=1, mixture=Mixture(sources=()), batch_size=32, optimiser="muon", weight_decay=0.0, final_lr=1.0,
    ema=0.999, validate_every=250, validation_batches=2, checkpoint_every=250,
)  # fmt: skip


def dexvla_nano(
    data: str = "runs/dexvla/tabletop",
    sawyer: str | None = "runs/dexvla/sawyer",
    task: str | None = "runs/dexvla/task",
    tasks: str | None = None,
    distractors: int | None = None,
    expert: float = 0.35,
    adapt: float = 0.15,
    steps: int = 2800,
    minutes: float | None = None,
    substeps: Literal["both", "stage2", "none"] = "both",
    head: Literal["scaledp", "unet"] = "scaledp",
    head_per_embodiment: bool = True,
    freeze_vision: bool = False,
    image_size: int = 96,
    horizon: int = 8,
    learning_rate: float = 1e-3,
    align_final_lr: float = 0.02,
    text_weight: float = 0.05,
    state: bool = True,
    vocabulary: str = "small",
    seed: int = 0,
) -> Run:
    """Nano DexVLA by its three stages, from the tabletop's arm and Meta-World's Sawyer, for a laptop without a GPU.

    Stage 1 ("expert", a run of its own) trains the diffusion expert behind image encoders, from all robots in mixed
    batches, told the sub-step. Stage 2 ("align") drops the encoders and trains everything with a vision-language model
    that reads the instruction and writes the sub-step, from one robot. Stage 3 ("adapt") goes on with one task's
    demonstrations. Stage 1 has a constant learning rate, 2 and 3 a cosine.

    data: demonstrations of the tabletop; sawyer: of Meta-World, None leaves it out; task: of one of the tabletop's
    tasks, for Stage 3, which otherwise takes `data`;
    tasks, distractors: for rollouts, as in cogact-nano;
    expert, adapt: shares of Stage 1 and Stage 3 in the training, 0 leaves one out;
    substeps: sub-step text in both stages, only as the output of Stage 2, or nowhere;
    freeze_vision: the vision tower stands still, as in the paper; for one that starts from nothing it must not;
    align_final_lr: where the cosine of Stage 2 ends, as a share of its start; 1 is the paper's constant rate;
    text_weight: alpha, which weighs the sub-steps beside the actions. The paper's is 1, at which the text's gradient on
    a vision tower from nothing was ten times the actions' (LOG.md);
    state: whether the head is told the robot's state, as in the paper.

    Raises:
        ValueError: a UNet head with a Stage 1, which is ScaleDP's; shares that leave nothing for Stage 2; data of
        another robot, or tasks that the tabletop lacks.
    """
    if min(expert, adapt) < 0 or expert + adapt >= 1:
        raise ValueError(f"expert is {expert} and adapt {adapt}; they are shares of the training, below 1 in all.")
    if head == "unet" and expert:
        raise ValueError("Stage 1 trains a ScaleDP, which no UNet can take over; set expert to 0.")
    if substeps not in ("both", "stage2", "none"):
        raise ValueError(f"substeps is {substeps!r}; choose 'both', 'stage2' or 'none'.")
    for path in (data, *([task] if task and adapt else [])):
        require_robot_of("tabletop", path)
    own = [Source(name="tabletop", path=data), *([Source(name="task", path=task)] if task and adapt else [])]
    every = [*own, *([Source(name="sawyer", path=sawyer)] if sawyer else [])]
    processor: dict[str, Any] = {"tell_state": state, **NORMALIZATION}
    config = {
        "head.horizon": horizon, "head.action_dim": WIDTH, "head.state_dim": WIDTH,
        "head_per_embodiment": head_per_embodiment and head == "scaledp",
    }  # fmt: skip

    def stage(name: str, share: float, sources: list[Source], **options: Any) -> dict[str, Stage]:
        length = {"steps": max(1, round(steps * share)), "minutes": None if minutes is None else minutes * share}
        mixture, trains = Mixture(sources=tuple(sources)), {"*": learning_rate}
        return {name: replace(STAGE, name=name, mixture=mixture, seed=seed, **{"trains": trains, **length, **options})}

    before = Run(
        name="expert",
        model="dexvla-expert",
        config=make_config("dexvla-expert", "nano", **config, image_size=image_size),
        stages=stage("expert", expert, every),
        processor={
            **processor, "levels": {}, "sentence": "hashed",
            "sentence_of": "subtask" if substeps == "both" else "instruction",
        },
    )  # fmt: skip
    trains = {"*": learning_rate, **({"vision": 0.0} if freeze_vision else {})}
    stages = stage("align", 1 - expert - adapt, own[:1], trains=trains, final_lr=align_final_lr)
    if adapt:
        stages |= stage("adapt", adapt, own[-1:], trains=trains, final_lr=0.0)
    return Run(
        name="dexvla-nano",
        model="dexvla",
        config=make_config("dexvla", "nano-UNet" if head == "unet" else "nano", **config, text_weight=text_weight),
        stages=stages,
        evaluation=evaluation(
            "tabletop",
            think=() if substeps == "none" else ("subtask",),
            tasks=tasks,
            distractors=distractors,
            vocabulary=vocabulary,
        ),
        weights={"head": "before"} if expert else {},
        processor={
            **processor,
            "image_size": image_size,
            "levels": {"subtask": float(substeps != "none")},
        },
        corpus=sentences("tabletop", vocabulary),
        before=before if expert else None,
    )
