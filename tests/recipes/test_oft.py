"""From demonstrations to an OpenVLA-OFT that acts, with and without FiLM."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.recording import write
from tests.recipes.test_cogact import TINY, look
from visuomotor.contract import TextKind
from visuomotor.data.lerobot import Dataset
from visuomotor.models.fit import processor_config
from visuomotor.policy import load_policy
from visuomotor.recipes import find_recipe, override
from visuomotor.training.trainer import train

SMALL = {name: value for name, value in TINY.items() if "action_model" not in name}
SMALL |= {
    "config.horizon": "4", "processor.image_roles": "scene", "stages.train.log_every": "1",
    "stages.train.mixture.sources.robot.options.cache": "[28, 28]",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("recorded") / "arm"
    write(root, storage="image")
    return str(root)


@pytest.mark.parametrize("film", [False, True])
def test_nano_trains_and_acts(film: bool, data: str, tmp_path: Path) -> None:
    run = override(find_recipe("oft-nano")(data=data, steps=3, batch_size=4, film=film), SMALL)
    policy = load_policy(train(run, tmp_path / "run", threads=1))
    assert policy.processor.config.prompt == "openvla_oft"
    assert (policy.model.config.film, policy.model.config.dinov2.film) == (film, 32 if film else 0)
    first, other = (policy.infer([look(data)], seeds=[seed])[0].actions for seed in (0, 1))
    assert first.shape == (4, 6)
    np.testing.assert_array_equal(first, other)  # nothing is drawn
    with pytest.raises(ValueError, match="decided by the model, whose prompt is 'openvla_oft'"):
        processor_config(override(run, {"processor.prompt": "plain"}))


def test_samples_and_observations_have_a_query_for_each_number(data: str, tmp_path: Path) -> None:
    run = override(find_recipe("oft-nano")(data=data, steps=1, batch_size=2), SMALL)
    policy = load_policy(train(run, tmp_path / "run", threads=1))
    processor, dataset = policy.processor, Dataset(data)
    image = look(data).images["front"]
    sample = processor.sample(0, dataset, 0, {"front": image}, np.random.default_rng(0))
    batch = processor.observations([look(data)])
    count = policy.model.head.request.queries
    assert count == 4 * 7  # the tabletop's width, to which this robot's is padded
    assert (sample.text_kind == TextKind.QUERY).sum() == (batch.text_kind == TextKind.QUERY).sum() == count
    assert processor.config.clip_state
