"""What is asked of a model, a model of a user's own, and the rule that others ask instead of comparing its name."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.fakes import install, make_run, stage
from visuomotor import models
from visuomotor.models import MODELS, config_from_json, config_to_json, find_spec, make_config, make_model, spec_of
from visuomotor.models.cost import sample_cost
from visuomotor.models.spec import ModelSpec
from visuomotor.policy import load_policy
from visuomotor.recipes import RECIPES
from visuomotor.text.layouts import LAYOUTS
from visuomotor.training.trainer import train

PACKAGE = Path(__file__).parents[2] / "src" / "visuomotor"
SPEAKERS = {"models", "recipes", "studies", "text"}  # layouts in text/ may have the name of a model
MINE = """
from dataclasses import dataclass

from tests.training.fakes import FakeConfig, FakeModel
from visuomotor.models import ModelSpec


@dataclass(frozen=True, kw_only=True)
class MyConfig(FakeConfig):
    width: int = 24


class MyModel(FakeModel):
    pass


SPEC = ModelSpec(name="mine", config=MyConfig, presets={"nano": MyConfig()}, build=MyModel, acting=("head",))
"""


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model in a user's own file, as it is named from the folder of that file."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_loaded", {})
    return "mine.py:SPEC"


@pytest.mark.parametrize("name", MODELS)
def test_specifications_agree_with_their_models(name: str) -> None:
    spec = find_spec(name)
    assert spec.name == name
    assert spec_of(spec.presets["nano"]) is spec
    assert spec.recipe in RECIPES
    assert spec.layout in {None, *LAYOUTS}
    for preset in spec.presets.values():
        with torch.device("meta"):
            model = make_model(name, preset)
        parts = model.parts()
        assert set(spec.acting) <= set(parts)
        last_names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        assert "llm" not in parts or set(spec.lora_targets) <= last_names


def test_departures_of_published_forms_are_documented() -> None:
    for name in MODELS:
        spec = find_spec(name)
        assert ("padding" in spec.exceptions) == any(not getattr(p, "mask_padded", True) for p in spec.presets.values())


def test_a_model_of_ones_own_is_trained_and_its_checkpoint_is_read_from_elsewhere(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    run = replace(make_run(stage(steps=2)), model=reference, config=make_config(reference, horizon=4))
    checkpoint = train(run, tmp_path / "run", threads=1)
    assert json.loads((checkpoint / "config.json").read_text())["model"] == str(tmp_path / "mine.py:SPEC")
    monkeypatch.chdir("/")
    monkeypatch.setattr(models, "_loaded", {})  # as in another process
    policy = load_policy(checkpoint)
    assert type(policy.model).__name__ == "MyModel"
    again = load_policy(policy.save(tmp_path / "again"))
    assert (again.model.config, again.model.config.width) == (policy.model.config, 24)
    (tmp_path / "mine.py").rename(tmp_path / "elsewhere.py")
    with pytest.raises(FileNotFoundError, match=r"no file .*mine\.py.*copy the file .*config\.json"):
        load_policy(checkpoint)


def test_a_model_of_ones_own_is_counted(reference: str) -> None:
    cost = sample_cost(make_model(reference, make_config(reference)), 2, 5, 1)
    assert cost["trunk"].flops == 2 * 2 * 8 * 24
    assert find_spec("./mine.py:SPEC") is find_spec(reference) is find_spec("mine.py")


def test_a_configuration_tells_its_model(reference: str, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(
        "from visuomotor.models import ModelSpec\nfrom visuomotor.models.dm0 import DM0, DM0Config\n"
        "SPEC = ModelSpec(name='twin', config=DM0Config, presets={'nano': DM0Config()}, build=DM0)\n"
    )
    with pytest.raises(ValueError, match=r"as 'dm0' is.*class MyConfig\(DM0Config\)"):
        find_spec("other.py:SPEC")
    assert spec_of(np.zeros(1)) is None


def test_presets_are_of_the_configurations_type() -> None:
    with pytest.raises(ValueError, match="configured by int, but preset 'nano' is a str"):
        ModelSpec(name="x", config=int, presets={"nano": "1"}, build=lambda _: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="it has no preset"):
        ModelSpec(name="x", config=int, presets={}, build=lambda _: None)  # type: ignore[arg-type, return-value]


def test_unknown_models_are_answered_with_the_nearest() -> None:
    for call in (find_spec, make_config, lambda name: config_to_json(name, None)):
        with pytest.raises(ValueError, match=r"no model 'dexvla-exprt'\. Did you mean 'dexvla-expert'"):
            call("dexvla-exprt")
    with pytest.raises(ValueError, match="Did you mean 'cogact'"):
        config_from_json({"model": "cogct", "config": {}})
    with pytest.raises(FileNotFoundError, match=r"There is no file nowhere\.py"):
        find_spec("nowhere.py:SPEC")


def spoken_names(source: str) -> set[str]:
    """Names of models that a program compares something with, and modules of theirs that it imports."""
    compared: list[ast.expr] = []
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            compared += [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            compared.append(node.value)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    constants = {n.value for part in compared for n in ast.walk(part) if isinstance(n, ast.Constant)}
    folders = {name for name in MODELS if any(f"{m}.".startswith(f"visuomotor.models.{name}.") for m in modules)}
    return constants & set(MODELS) | folders


@pytest.mark.parametrize(
    "source",
    [
        'a == "dm0"',
        'a not in {"dm0": 1}',
        'match a:\n    case "dm0":\n        pass',
        "import visuomotor.models.dm0.config",
        "from visuomotor.models import dm0",
        "from visuomotor.models.dm0 import DM0",
    ],
)
def test_names_are_recognised(source: str) -> None:
    assert spoken_names(source) == {"dm0"}
    assert not spoken_names(source.replace("dm0", "other"))


def test_a_models_name_is_compared_in_its_layer_alone() -> None:
    spoken = {
        str(path.relative_to(PACKAGE)): sorted(names)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in SPEAKERS and (names := spoken_names(path.read_text()))
    }
    assert not spoken, f"Ask the model's specification (models/spec.py) instead: {spoken}"
