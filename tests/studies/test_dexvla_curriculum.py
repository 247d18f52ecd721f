from visuomotor.contract import Run
from visuomotor.recipes import find_recipe
from visuomotor.studies.dexvla_curriculum import DEXVLA_CURRICULUM


def facts(run: Run) -> dict[str, object]:
    """What the arms may differ in."""
    before = run.before
    return {
        "head": type(run.config.head).__name__,
        "own layers": run.config.head_per_embodiment,
        "stage 1": before is not None and before.processor["sentence_of"],
        "stage 2 writes": bool(run.processor["levels"]["subtask"]),
    }


def test_each_arm_differs_from_its_counterpart_in_what_it_says() -> None:
    runs = {
        a.name: find_recipe("dexvla-nano")(**DEXVLA_CURRICULUM.arguments, **a.arguments) for a in DEXVLA_CURRICULUM.arms
    }
    changed = {}
    for arm in DEXVLA_CURRICULUM.arms:
        own = facts(runs[arm.name])
        if arm.against is not None:
            other = facts(runs[arm.against])
            changed[arm.name, arm.against] = {name: value for name, value in own.items() if value != other[name]}
        assert arm.think == (("subtask",) if own["stage 2 writes"] else ())
    assert changed == {
        ("unet", "stage-2"): {"head": "UNetConfig", "own layers": False},  # one robot: its layers are plain either way
        ("curriculum", "stage-2"): {"stage 1": "subtask"},
        ("substeps-in-stage-2", "curriculum"): {"stage 1": "instruction"},
        ("no-substeps", "curriculum"): {"stage 1": "instruction", "stage 2 writes": False},
        ("shared-layers", "curriculum"): {"own layers": False},
    }


def test_all_arms_train_for_equal_time() -> None:
    for arm in DEXVLA_CURRICULUM.arms:
        run = find_recipe("dexvla-nano")(**DEXVLA_CURRICULUM.arguments, **arm.arguments, minutes=10)
        stages = [*(run.before.stages.values() if run.before else ()), *run.stages.values()]
        assert sum(stage.minutes or 0 for stage in stages) == 10
