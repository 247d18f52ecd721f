from visuomotor.models.damvla import COMBINATIONS
from visuomotor.recipes import find_recipe, override
from visuomotor.studies import STUDIES
from visuomotor.studies.damvla_switches import DAMVLA_PARTS, DAMVLA_SWITCHES
from visuomotor.studies.engine import Study


def combinations(study: Study) -> dict[str, tuple[bool, ...]]:
    found = {}
    for arm in study.arms:
        run = override(
            find_recipe(study.recipe)(data="a", start="base", **study.arguments, **arm.arguments), arm.fields
        )
        config = run.config
        assert run.model == "damvla"
        assert run.stages["train"].start == run.processor_from.checkpoint == "base"
        assert set(config.weighted) <= set(run.processor["weights"])
        assert run.processor["router"]
        found[arm.name] = (config.vt, config.acw, config.tw, config.dam, config.dl)
    return found


def test_the_arms_are_table_six() -> None:
    published = {name: tuple(s in on for s in ("vt", "acw", "tw", "dam", "dl")) for name, on in COMBINATIONS.items()}
    assert combinations(DAMVLA_SWITCHES) == published
    assert combinations(DAMVLA_PARTS) == {name: published[name] for name in ("full", "vt-acw-tw", "dam-dl")}
    means = [arm.published.rpartition(" ")[2] for arm in DAMVLA_SWITCHES.arms]
    assert means == ["58", "66", "63", "66", "78", "73", "60"]
    for arm in DAMVLA_SWITCHES.arms:  # the mean of the three published rates, rounded
        *rates, mean = (int(value) for value in arm.published.replace(",", "").split())
        assert abs(sum(rates) / 3 - mean) < 0.75


def test_they_start_from_a_cogact() -> None:
    for study in (DAMVLA_SWITCHES, DAMVLA_PARTS):
        assert STUDIES[study.name] is study
        config = find_recipe(study.recipe)(**study.base).config
        assert not any((config.vt, config.acw, config.tw, config.dam, config.dl))
