"""What a study is, and how it is carried out: arms trained for equal time, rolled out on the same starts."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visuomotor.apps.answers import RESULTS_FILE as ANSWERS_FILE
from visuomotor.apps.answers import AnswerPlan, evaluate_answers
from visuomotor.apps.evaluation import evaluate_checkpoint
from visuomotor.apps.steps import Steps, digest, source_digest
from visuomotor.contract import Run
from visuomotor.evaluation.results import RECORDS_FILE, EpisodeRecord, read_records
from visuomotor.locks import FolderLock
from visuomotor.recipes import find_recipe, override
from visuomotor.spelling import did_you_mean
from visuomotor.training.checkpoint import last_checkpoint

__all__ = ["Arm", "Study", "StudyPlan", "run_study"]

MANY_STEPS = 100_000  # training is limited by time
OWN = ("data", "scenes", "steps", "minutes", "seed", "start")  # arguments of recipes that the plan or the study gives
SEED_STRIDE = 1_000_000  # between the starts of two training seeds
Watch = Callable[[str], Callable[[int, int, str], None]]
Measure = Callable[[Path, Path, list[EpisodeRecord], Path], dict[str, float]]
NUMBERS = Path("measured") / "numbers.json"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting.

    adds: in words, what it has that `against` has not; arguments: of the recipe, fields: of its run, as on the command
    line of `train`; think: levels written before acting; weights_of: the arm whose checkpoint it rolls out another way,
    trained once; against: the arm it is compared with, None for the first; published: what a paper reports of it.
    """

    name: str
    adds: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    think: tuple[str, ...] = ()
    weights_of: str | None = None
    against: str | None = None
    published: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and the arms that answer it.

    arguments: of the recipe, for every arm; base: those of a run that is made once, and from which all arms start;
    boxes: the words with which answers to "Where is ...?" begin, None where no arm can be asked;
    measure: (checkpoint, demonstrations, rollouts, folder for pictures) -> {name: number} of every trained arm.
    """

    name: str
    question: str
    recipe: str
    arms: tuple[Arm, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    boxes: str | None = None
    measure: Measure | None = None

    def __post_init__(self) -> None:
        known: list[str] = []
        shared: list[str] = []
        for arm in self.arms:
            if arm.name in known:
                raise ValueError(f"Study {self.name!r} has two arms {arm.name!r}.")
            for what, other in (("rolls out", arm.weights_of), ("is compared with", arm.against)):
                if other is not None and other not in known:
                    raise ValueError(f"Arm {arm.name!r} {what} {other!r}, which does not stand before it.")
            if arm.weights_of is not None and (arm.fields or arm.arguments):
                raise ValueError(f"Arm {arm.name!r} rolls out {arm.weights_of!r}, so it has no training of its own.")
            if arm.weights_of in shared:
                raise ValueError(f"Arm {arm.name!r} rolls out {arm.weights_of!r}, which has no training of its own.")
            known.append(arm.name)
            shared += [arm.name] if arm.weights_of is not None else []

    def only(self, names: Collection[str]) -> "Study":
        """The study of some of its arms; one whose counterpart is left out is compared with none.

        Raises:
            ValueError: an unknown arm, or one that rolls out an arm which is left out.
        """
        known = [arm.name for arm in self.arms]
        for name in names:
            if name not in known:
                raise ValueError(f"Study {self.name!r} has no arm {name!r}.{did_you_mean(name, known)} Known: {known}.")
        kept = (arm for arm in self.arms if arm.name in names)
        return replace(self, arms=tuple(replace(a, against=a.against if a.against in names else None) for a in kept))


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """How large the study is.

    minutes: of training for each arm and seed; episodes: for which each is rolled out; questions: that each is asked
    about images it was not trained on, where the study has any; overwrite: arms that were made with other settings;
    arguments: of the recipe, for all arms and the base; overrides: fields of the arms' runs (what is no stage's also of
    the base's).
    """

    out: Path
    data: Path
    scenes: Path | None = None
    minutes: float = 5
    base_minutes: float = 9
    seeds: int = 2
    episodes: int = 100
    questions: int = 500
    workers: int = 2
    overwrite: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("minutes", "base_minutes", "seeds", "episodes", "questions", "workers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")


def run_study(
    study: Study,
    plan: StudyPlan,
    watch: Watch,
    say: Callable[[str], None] = lambda text: None,
    *,
    break_lock: bool = False,
) -> None:
    """Train and roll out every arm with every seed, reusing what is there; `summarise` reads what it leaves.

    Seed by seed, so that whatever changes on the machine meanwhile meets all arms alike.

    Raises:
        ValueError: an argument that the study sets itself.
        FolderInUse: another process or thread writes into `plan.out`, or into an arm's folder below; see `FolderLock`,
            also for `break_lock`.
    """
    for name in plan.arguments:
        if name in OWN or name in study.base or any(name in arm.arguments for arm in study.arms):
            raise ValueError(f"--{name.replace('_', '-')}: study {study.name!r} sets it itself.")
    with FolderLock(plan.out, nested=True, break_lock=break_lock):
        _run_arms(study, plan, watch, say)


def _run_arms(study: Study, plan: StudyPlan, watch: Watch, say: Callable[[str], None]) -> None:
    base = None
    if study.base:
        # Stages are the arms' own; what else is set holds for the base, too.
        shared = {name: text for name, text in plan.overrides.items() if not name.startswith("stages.")}
        run = _run(study, plan, {**study.base, "minutes": plan.base_minutes}, shared, 0)
        base = _train(run, plan, plan.out / "base", digest(source_digest(), _hashes(run), run), watch, "base")
    for seed in range(plan.seeds):
        made: dict[str, tuple[Run, str, Path]] = {}
        for arm in study.arms:
            folder = plan.out / arm.name / f"seed-{seed}"
            if arm.weights_of is None:
                arguments = {**arm.arguments, "minutes": plan.minutes} | ({"start": str(base)} if base else {})
                run = _run(study, plan, arguments, {**arm.fields, **plan.overrides}, seed)
                known = digest(source_digest(), _hashes(run), study.base, plan.base_minutes, run)
                made[arm.name] = run, known, _train(run, plan, folder, known, watch, f"{arm.name}, seed {seed}")
                if study.boxes is not None:
                    _ask(study.boxes, *made[arm.name], plan, folder, watch)
            else:
                made[arm.name] = made[arm.weights_of]
            _evaluate(arm, *made[arm.name], plan, folder, watch)
            if study.measure is not None and arm.weights_of is None:
                _measure(study.measure, *made[arm.name][1:], plan, folder, watch)
            say(f"{arm.name}, seed {seed}: done")


def _do(
    plan: StudyPlan, folder: Path, name: str, inputs: str, output: Path, work: Callable[[bool, bool], None]
) -> None:
    """A step of an arm; FileExistsError where hours of other training would be replaced unasked."""
    steps = Steps(folder)
    if steps.state(name, inputs, output) == "new" and output.parent.exists() and not plan.overwrite:
        raise FileExistsError(
            f"{output.parent} was made with other settings, data or code. Choose another --out, or pass --overwrite."
        )
    steps.run(name, inputs, output, work)


def _run(study: Study, plan: StudyPlan, arguments: Mapping[str, Any], fields: Mapping[str, str], seed: int) -> Run:
    given: dict[str, Any] = {
        **study.arguments, **plan.arguments, "data": str(plan.data), "steps": MANY_STEPS, "seed": seed, **arguments,
    }  # fmt: skip
    if plan.scenes is not None:
        given["scenes"] = str(plan.scenes)
    return override(find_recipe(study.recipe)(**given), fields)


def _train(run: Run, plan: StudyPlan, folder: Path, inputs: str, watch: Watch, title: str) -> Path:
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

    _do(plan, folder, "train", inputs, folder / "train" / "last", work)
    return last_checkpoint(folder / "train")


def _evaluate(arm: Arm, run: Run, trained: str, checkpoint: Path, plan: StudyPlan, folder: Path, watch: Watch) -> None:
    if run.evaluation is None:
        raise ValueError(f"Recipe {run.name!r} has no evaluation plan, which a study needs.")
    # Other starts for every training seed, the same for all arms: so rollouts of a pair are independent of the others.
    starts = run.evaluation.seed + SEED_STRIDE * int(folder.name.rpartition("-")[2])
    wanted = replace(run.evaluation, episodes=plan.episodes, control_episodes=1, think=arm.think, seed=starts)

    def work(resume: bool, overwrite: bool) -> None:
        show = watch(f"rolling out {arm.name}")
        evaluate_checkpoint(
            checkpoint,
            wanted,
            folder / "eval",
            data=[path for path in (plan.data, plan.scenes) if path is not None],
            workers=plan.workers,
            videos=0,
            controls=(),
            resume=resume,
            overwrite=overwrite,
            progress=lambda state: show(state.done, state.total, f"{state.successes} succeeded"),
        )

    _do(plan, folder, "eval", digest(trained, wanted), folder / "eval" / "results.json", work)


def _measure(measure: Measure, trained: str, checkpoint: Path, plan: StudyPlan, folder: Path, watch: Watch) -> None:
    def work(resume: bool, overwrite: bool) -> None:
        watch(f"measuring {folder.parent.name}")
        out = (folder / NUMBERS).parent
        out.mkdir(exist_ok=True)
        found = measure(checkpoint, plan.data, read_records(folder / "eval" / RECORDS_FILE), out)
        (folder / NUMBERS).write_text(json.dumps(found, indent=2) + "\n")

    _do(plan, folder, "measure", digest(trained, measure.__name__), folder / NUMBERS, work)


def _ask(begin: str, run: Run, trained: str, checkpoint: Path, plan: StudyPlan, folder: Path, watch: Watch) -> None:
    """Where things are, on images that training held out."""
    held_out = next(iter(run.stages.values())).mixture.validation
    questions = AnswerPlan(
        data=str(plan.scenes or plan.data),
        validation=held_out,
        questions=plan.questions,
        kinds={"box": 1.0},
        begin={"box": begin},
    )

    def work(resume: bool, overwrite: bool) -> None:
        show = watch(f"asking {folder.parent.name}")
        evaluate_answers(
            checkpoint,
            questions,
            folder / "answers",
            overwrite=resume or overwrite,
            progress=lambda done, total: show(done, total, "answered"),
        )

    _do(plan, folder, "answers", digest(trained, questions), folder / "answers" / ANSWERS_FILE, work)


def _hashes(run: Run) -> list[str]:
    """What the data sets of the run, and of the one before it, hold."""
    from visuomotor.data.sources import open_source

    stages = [stage for made in (run, run.before) if made is not None for stage in made.stages.values()]
    paths = sorted({source.path for stage in stages for source in stage.mixture.sources if source.path})
    return [open_source(path).hash() for path in paths]
