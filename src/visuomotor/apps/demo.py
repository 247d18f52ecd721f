"""The main job in one go: demonstrations -> data set -> training -> evaluation -> report.

Every step is a verb of its own; the demo only chains them, and reuses a step whose inputs have the same hash.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visuomotor.apps.report import write_report
from visuomotor.apps.steps import Steps, digest, source_digest
from visuomotor.codec import update
from visuomotor.evaluation.provenance import checkpoint_hash
from visuomotor.evaluation.results import Results
from visuomotor.locks import FolderLock
from visuomotor.simulation.interface import load_world
from visuomotor.simulation.options import named_options
from visuomotor.simulation.recording import require_recordable

if TYPE_CHECKING:
    from visuomotor.training.progress import Progress

MANY_STEPS = 100_000  # the demo's training is limited by time


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """How large the demo is, in which world (a name or FILE.py:NAME).

    scenes: single frames for grounding. minutes: of training.
    variation: options of the world in which it demonstrates, beside those of the evaluation.
    start: a checkpoint to begin from; None trains from nothing.
    overrides: fields of the recipe's run, as on the command line of `train`.
    """

    world: str
    out: Path
    recipe: str = "cogact-nano"
    demonstrations: int = 400
    scenes: int = 0
    minutes: float = 25
    action_noise: float = 0.2
    episodes: int = 100
    control_episodes: int = 30
    variation: dict[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ("train",)
    start: str | None = None
    workers: int = 2
    seed: int = 0
    overrides: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo leaves: the evaluation and the report's path."""

    results: Results
    report: Path


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A step that is finished: its name, whether it was reused, the seconds it took (then, if it was reused)."""

    name: str
    reused: bool
    seconds: float


Watch = Callable[[str], Callable[[int, int, str], None]]


def run_demo(
    plan: DemoPlan,
    watch: Watch,
    finished: Callable[[StepDone], None] = lambda step: None,
    *,
    break_lock: bool = False,
) -> DemoResult:
    """Do the job.

    `watch(title)` is called as a step begins and returns its progress function (done, total, note); `finished` after
    each step.

    Raises:
        FolderInUse: another process or thread writes into `plan.out`, or into a step's folder below; see `FolderLock`,
            also for `break_lock`.
    """
    with FolderLock(plan.out, break_lock=break_lock):
        return _run_steps(plan, watch, finished)


def _run_steps(plan: DemoPlan, watch: Watch, finished: Callable[[StepDone], None]) -> DemoResult:
    steps = Steps(plan.out)
    inputs = digest(source_digest(), plan.world, plan.seed)

    def do(name: str, output: Path, given: Any, work: Callable[[bool, bool], Any]) -> str:
        whole = digest(inputs, given)
        reused = steps.run(name, whole, output, work) == "done"
        finished(StepDone(name=name, reused=reused, seconds=steps.seconds(name)))
        return whole

    data = collection(plan, plan.out / "data", plan.demonstrations, 0)
    made = [do("collect", data.out, data.identity(), lambda r, o: collect_step(data, r, o, watch))]
    if plan.scenes:
        scenes = collection(plan, plan.out / "scenes", 1, plan.scenes)
        made.append(do("scenes", scenes.out, scenes.identity(), lambda r, o: collect_step(scenes, r, o, watch)))
    training = [made, plan.recipe, start_identity(plan.start), plan.minutes, plan.overrides]
    trained = do("train", plan.out / "train" / "last", training, lambda r, o: train_step(plan, r, o, watch))
    rolling = [trained, plan.episodes, plan.control_episodes, plan.splits]
    do("eval", plan.out / "eval" / "results.json", rolling, lambda r, o: evaluate_step(plan, r, o, watch))
    report = write_report(plan.out, title=f"visuomotor demo: {plan.world}")
    return DemoResult(results=Results.load(plan.out / "eval"), report=report)


def start_identity(start: str | None) -> str | None:
    """A checkpoint folder is known by its contents: another one may come to lie there."""
    return checkpoint_hash(Path(start)) if start and Path(start).is_dir() else start


def collection(plan: DemoPlan, out: Path, episodes: int, scenes: int) -> Any:
    """The plan of one of the demo's two collections, in the world as the recipe evaluates in it."""
    from visuomotor.simulation.collect import CollectPlan

    evaluation = demo_run(plan).evaluation

    return CollectPlan(
        environment=plan.world,
        out=out,
        episodes=episodes,
        scenes=scenes,
        seed=plan.seed,
        workers=plan.workers,
        action_noise=0.0 if scenes else plan.action_noise,
        options={**(evaluation.options if evaluation else {}), **({} if scenes else plan.variation)},
    )


def collect_step(plan: Any, resume: bool, overwrite: bool, watch: Watch) -> None:
    from visuomotor.simulation.collect import collect

    what = "recording scenes" if plan.scenes else "demonstrating"
    show = watch(what)
    collect(plan, resume=resume, overwrite=overwrite, progress=lambda p: show(p.done, p.total, f"{p.failures} failed"))


def demo_run(plan: DemoPlan) -> Any:
    """The demo's training run: its recipe with the demo's data, start and overrides."""
    from visuomotor.recipes import find_recipe, override

    recipe = find_recipe(plan.recipe)
    given: dict[str, Any] = {"data": str(plan.out / "data"), "minutes": plan.minutes, "steps": MANY_STEPS}
    given |= named_options(recipe, {"world": plan.world})
    if plan.scenes:
        given["scenes"] = str(plan.out / "scenes")
    if plan.start:
        given["start"] = plan.start
    return override(recipe(**given), plan.overrides)


def train_step(plan: DemoPlan, resume: bool, overwrite: bool, watch: Watch) -> None:
    from visuomotor.training.trainer import train

    run = demo_run(plan)
    show = watch("training")

    def progress(state: "Progress") -> None:
        speed = f"{state.samples_per_second:.0f} samples/s, wait {state.data_wait:.0%}"
        show(round(100 * state.fraction), 100, f"%, step {state.step}, {speed}")

    train(run, plan.out / "train", resume=resume, overwrite=overwrite, progress=progress)


def evaluate_step(plan: DemoPlan, resume: bool, overwrite: bool, watch: Watch) -> None:
    from visuomotor.apps.evaluation import evaluate_checkpoint
    from visuomotor.training.checkpoint import last_checkpoint

    train = plan.out / "train"
    evaluation = demo_run(plan).evaluation
    if evaluation is None:
        raise ValueError(f"Recipe {plan.recipe!r} has no evaluation plan, which the demo needs.")
    evaluation = replace(evaluation, episodes=plan.episodes, control_episodes=plan.control_episodes, splits=plan.splits)
    checkpoint = last_checkpoint(train)
    show = watch("evaluating")
    evaluate_checkpoint(
        checkpoint,
        evaluation,
        plan.out / "eval",
        data=[plan.out / "data"],
        workers=plan.workers,
        resume=resume,
        overwrite=overwrite,
        progress=lambda state: show(state.done, state.total, f"{state.successes} succeeded"),
    )


def demo_plan(
    world: str, *, full: bool = False, from_scratch: bool = False, overrides: dict[str, str], **given: Any
) -> DemoPlan:
    """The demo of a world, small or full; `given` replaces single fields of the plan.

    It starts from the checkpoint that comes with the world, where there is one, unless `from_scratch`.

    Raises:
        ValueError: an unknown world, or one that has no demonstrator, or no full demo.
    """
    spec = load_world(world)
    require_recordable(spec, scenes=False)
    if full and spec.full_demo is None:
        raise ValueError(f"World {spec.name!r} has one size of demo; leave --full out, or set --demonstrations.")
    start = None
    if not from_scratch and spec.checkpoint is not None and spec.checkpoint.exists():
        start = str(spec.checkpoint)
    plan = DemoPlan(world=world, out=Path("runs") / f"demo-{spec.name}", start=start, overrides=overrides)
    sizes = {**spec.demo, **(spec.full_demo or {})} if full else spec.demo
    return replace(update(plan, sizes), **given)
