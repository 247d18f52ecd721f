"""What a study is, and how it is carried out: arms trained for equal time, rolled out on the same starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visuomotor.apps.evaluation import evaluate_checkpoint
from visuomotor.apps.steps import Steps, digest, source_digest
from visuomotor.contract import Run
from visuomotor.recipes import find_recipe, override

__all__ = ["Arm", "Study", "StudyPlan", "checkpoint_of", "run_study"]

MANY_STEPS = 100_000  # training is limited by time
Watch = Callable[[str], Callable[[int, int, str], None]]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting.

    adds: in words, what it has that `against` has not; arguments: of the recipe, fields: of its run, as on the command
    line of `train`; think: levels written before acting; weights_of: the arm whose checkpoint it rolls out another way,
    trained once; against: the arm it is compared with, None for the first.
    """

    name: str
    adds: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    think: tuple[str, ...] = ()
    weights_of: str | None = None
    against: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and the arms that answer it.

    arguments: of the recipe, for every arm; base: those of a run that is made once, and from which all arms start.
    """

    name: str
    question: str
    recipe: str
    arms: tuple[Arm, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known: list[str] = []
        for arm in self.arms:
            if arm.name in known:
                raise ValueError(f"Study {self.name!r} has two arms {arm.name!r}.")
            for what, other in (("rolls out", arm.weights_of), ("is compared with", arm.against)):
                if other is not None and other not in known:
                    raise ValueError(f"Arm {arm.name!r} {what} {other!r}, which does not stand before it.")
            if arm.weights_of is not None and (arm.fields or arm.arguments):
                raise ValueError(f"Arm {arm.name!r} rolls out {arm.weights_of!r}, so it has no training of its own.")
            known.append(arm.name)


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """How large the study is. `minutes` of training for each arm and seed; `episodes` each is rolled out for."""

    out: Path
    data: Path
    scenes: Path | None = None
    minutes: float = 5
    base_minutes: float = 9
    seeds: int = 2
    episodes: int = 100
    workers: int = 2
    overrides: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("minutes", "base_minutes", "seeds", "episodes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")


def run_study(study: Study, plan: StudyPlan, watch: Watch, say: Callable[[str], None] = lambda text: None) -> None:
    """Train and roll out every arm with every seed, reusing what is there; `summarise` reads what it leaves.

    Seed by seed, so that whatever changes on the machine meanwhile meets all arms alike.
    """
    inputs = digest(source_digest(), _hashes(plan))
    base = None
    if study.base:
        run = _run(study, plan, {**study.base, "minutes": plan.base_minutes}, {}, 0)
        base = _train(run, plan.out / "base", digest(inputs, run), watch, "base")
    for seed in range(plan.seeds):
        made: dict[str, tuple[Run, str, Path]] = {}
        for arm in study.arms:
            folder = plan.out / arm.name / f"seed-{seed}"
            if arm.weights_of is None:
                arguments = {**arm.arguments, "minutes": plan.minutes} | ({"start": str(base)} if base else {})
                run = _run(study, plan, arguments, arm.fields, seed)
                known = digest(inputs, study.base, plan.base_minutes, run)
                made[arm.name] = run, known, _train(run, folder, known, watch, f"{arm.name}, seed {seed}")
            else:
                made[arm.name] = made[arm.weights_of]
            _evaluate(arm, *made[arm.name], plan, folder, watch)
            say(f"{arm.name}, seed {seed}: done")


def checkpoint_of(train: Path) -> Path:
    """The last checkpoint of a training folder."""
    return train / "checkpoints" / (train / "last").read_text().strip()


def _run(study: Study, plan: StudyPlan, arguments: Mapping[str, Any], fields: Mapping[str, str], seed: int) -> Run:
    given: dict[str, Any] = {**study.arguments, "data": str(plan.data), "steps": MANY_STEPS, "seed": seed, **arguments}
    if plan.scenes is not None:
        given["scenes"] = str(plan.scenes)
    return override(find_recipe(study.recipe)(**given), {**fields, **plan.overrides})


def _train(run: Run, folder: Path, inputs: str, watch: Watch, title: str) -> Path:
    from visuomotor.training.trainer import train

    def work(resume: bool, overwrite: bool) -> None:
        show = watch(f"training {title}")
        train(
            run,
            folder / "train",
            resume=resume,
            overwrite=overwrite,
            progress=lambda state: show(round(100 * state.fraction), 100, f"step {state.step}"),
        )

    Steps(folder).run("train", inputs, folder / "train" / "last", work)
    return checkpoint_of(folder / "train")


def _evaluate(arm: Arm, run: Run, trained: str, checkpoint: Path, plan: StudyPlan, folder: Path, watch: Watch) -> None:
    if run.evaluation is None:
        raise ValueError(f"Recipe {run.name!r} has no evaluation plan, which a study needs.")
    wanted = replace(run.evaluation, episodes=plan.episodes, control_episodes=1, think=arm.think)

    def work(resume: bool, overwrite: bool) -> None:
        show = watch(f"rolling out {arm.name}")
        evaluate_checkpoint(
            checkpoint,
            wanted,
            folder / "eval",
            data=[plan.data],
            workers=plan.workers,
            videos=0,
            controls=(),
            resume=resume,
            overwrite=overwrite,
            progress=lambda state: show(state.done, state.total, f"{state.successes} succeeded"),
        )

    Steps(folder).run("eval", digest(trained, wanted), folder / "eval" / "results.json", work)


def _hashes(plan: StudyPlan) -> list[str]:
    """What the data sets hold."""
    from visuomotor.data.lerobot import Dataset

    return [Dataset(path).hash() for path in (plan.data, plan.scenes) if path is not None]
