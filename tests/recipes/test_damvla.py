from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.fakes import CORPUS, FakeDataset
from tests.data.recording import ARM, write
from visuomotor.codec import update
from visuomotor.data.processor import Processor
from visuomotor.data.weighting import WeightingConfig
from visuomotor.models import make_model
from visuomotor.models.damvla import COMBINATIONS
from visuomotor.models.fit import processor_config
from visuomotor.policy import Policy, load_policy
from visuomotor.recipes import find_recipe, override


def test_every_combination_trains_on_what_its_processor_makes() -> None:
    dataset = FakeDataset()
    run = find_recipe("damvla-nano")(signal="speed", image_size=24, horizon=4)
    processor = Processor.build(processor_config(run), [dataset], CORPUS)
    rng, rows = np.random.default_rng(0), np.array([0, 19])
    images = [{c: dataset.frames(c, rows[i : i + 1])[0] for c in dataset.cameras} for i in range(2)]
    batch = processor.collate([processor.sample(0, dataset, int(r), images[i], rng) for i, r in enumerate(rows)])
    small = {
        "dinov2.image_size": "24",
        "siglip.image_size": "24",
        "llm.layers": "2",
        "action_model.horizon": "4",
        "action_model.depth": "1",
        "action_model.repeated_diffusion_steps": "1",
    }
    for name in COMBINATIONS:
        run = override(find_recipe("damvla-nano")(combination=name), {f"config.{key}": v for key, v in small.items()})
        losses = make_model(run.model, run.config).loss(batch, generator=torch.Generator().manual_seed(0))
        assert set(losses.terms) == ({"move", "mani", "router"} if run.config.dam else {"diffusion"})
        losses.total.backward()
        assert losses.total.item() > 0


def test_switches_and_signals_are_set_on_the_command_line() -> None:
    run = find_recipe("damvla-nano")(signal="contact", covers="phases")
    assert run.processor["weighting"] == WeightingConfig(signal="contact", covers="phases")
    changed = override(run, {"config.vt": "false", "processor.weighting.sigma_seconds": "0.6,0.2"})
    assert not changed.config.vt
    assert changed.processor["weighting"].sigma_seconds == (0.6, 0.2)
    other = override(
        find_recipe("tabletop-nano")(), {"processor.weights": "emphasis", "processor.weighting.gamma": "0.9"}
    )
    assert processor_config(other).weights == ("emphasis",)
    assert processor_config(other).weighting.gamma == 0.9
    with pytest.raises(ValueError, match="There is no combination"):
        find_recipe("damvla-nano")(combination="half")
    started = find_recipe("damvla-nano")(start="parent")
    assert started.processor_from.checkpoint == "parent"
    assert started.processor["router"]


def test_worlds_have_their_own_robot_words_and_tasks() -> None:
    tabletop = find_recipe("damvla-nano")(tasks="lift, put_on", vocabulary="full", distractors=0)
    assert tabletop.evaluation is not None
    assert tabletop.evaluation.options == {"vocabulary": "full", "tasks": "lift, put_on", "distractors": 0}
    sawyer = find_recipe("damvla-nano")(data="sawyer", world="metaworld", combination="vt-acw")
    assert sawyer.evaluation is not None
    assert (sawyer.evaluation.environment, sawyer.evaluation.options) == ("metaworld", {"tasks": "grasps"})
    assert sawyer.config.action_dim == processor_config(sawyer).action_width == 4
    assert "hit the nail with the hammer" in sawyer.corpus
    assert find_recipe("cogact-nano")(data="sawyer", world="metaworld").corpus == sawyer.corpus != tabletop.corpus
    with pytest.raises(ValueError, match="Unknown world 'kitchen'"):
        find_recipe("cogact-nano")(world="kitchen")
    with pytest.raises(ValueError, match=r"'hamer'.*hammer"):
        find_recipe("cogact-nano")(world="metaworld", tasks="hammer, hamer")
    with pytest.raises(ValueError, match="no option 'distractors'"):
        find_recipe("cogact-nano")(world="metaworld", distractors=2)
    with pytest.raises(ValueError, match="no task 'fold'"):
        find_recipe("damvla-nano")(tasks="fold")


def test_data_of_another_robot_than_the_world_s_is_refused_before_training(tmp_path: Path) -> None:
    sawyer, own = (
        str(write(tmp_path / name, robot=replace(ARM, name=name)).root) for name in ("metaworld_sawyer", "own")
    )
    for recipe in ("damvla-nano", "cogact-nano", "dexvla-nano"):
        with pytest.raises(ValueError, match="with the metaworld_sawyer of metaworld, but the policy is for tabletop"):
            find_recipe(recipe)(data=sawyer)
        find_recipe(recipe)(data=own)
    find_recipe("damvla-nano")(data=sawyer, world="metaworld")


def test_a_finished_policy_may_route_otherwise(tmp_path: Path) -> None:
    run = find_recipe("damvla-nano")(signal="speed", horizon=4)
    processor = Processor.build(processor_config(run), [FakeDataset()], CORPUS)
    words = update(run.config, {"llm.vocab_size": processor.tokenizer.vocab_size})
    folder = Policy(make_model(run.model, words), processor).save(tmp_path / "policy")
    soft = load_policy(folder, routing="soft", guidance=1.0, steps=5)
    assert soft.model.config == replace(words, routing="soft", guidance=1.0)
    assert soft.steps == 5
    assert load_policy(folder).model.config == words
    with pytest.raises(ValueError, match="routing"):
        load_policy(folder, routing="softly")
    with pytest.raises(ValueError, match="hysteresis is 'a'; expected a number"):
        load_policy(folder, hysteresis="a")
    with pytest.raises(ValueError, match=r"no setting 'horizon'.*hysteresis"):
        load_policy(folder, horizon=3)
