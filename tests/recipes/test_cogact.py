"""From data to a policy that acts: nano from nothing, and the published settings with a LLaMA tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaModel

from tests.data.recording import write
from tests.text.test_llama import write_model
from visuomotor.contract import Mixture, Observation, Run, Source
from visuomotor.data.conversations import Conversation, write_conversations
from visuomotor.data.lerobot import Dataset
from visuomotor.models.fit import processor_config
from visuomotor.policy import load_policy
from visuomotor.recipes import find_recipe, override
from visuomotor.training.metrics import read_metrics
from visuomotor.training.trainer import train

TINY = {
    "config.dinov2.image_size": "28", "config.dinov2.patch_size": "7", "config.siglip.image_size": "28",
    "config.siglip.patch_size": "7", "config.dinov2.width": "16", "config.dinov2.layers": "2",
    "config.dinov2.mlp_width": "16", "config.siglip.width": "16", "config.siglip.layers": "2",
    "config.siglip.mlp_width": "16", "config.llm.width": "32", "config.llm.mlp_width": "32", "config.llm.layers": "2",
    "config.llm.heads": "4", "config.llm.kv_heads": "4", "config.llm.head_dim": "8", "config.action_model.width": "16",
    "config.action_model.depth": "1", "config.action_model.horizon": "4",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("recorded") / "arm"
    write(root, storage="image")
    return str(root)


def look(data: str) -> Observation:
    state = Dataset(data).columns["observation.state"][0]
    image = np.full((32, 32, 3), 90, np.uint8)
    return Observation(images={"front": image}, state=state, instruction="pick up the red block")


def test_nano_trains_resumes_and_acts(data: str, tmp_path: Path) -> None:
    recipe = find_recipe("cogact-nano")(data=data, steps=3, batch_size=4)
    small = {**TINY, "processor.image_roles": "scene", "stages.train.log_every": "1"}
    run = override(recipe, small)
    assert run.stages["train"].mixture.sources[0].options == {"cache": [96, 96]}
    run = override(run, {"stages.train.mixture.sources.robot.options.cache": "[28, 28]"})
    whole = train(run, tmp_path / "a", threads=1)
    train(run, tmp_path / "b", threads=1, stop_after_seconds=0.0)
    resumed = train(run, tmp_path / "b", resume=True, threads=1)
    left, right = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in left)
    policy = load_policy(whole)
    assert policy.processor.config.prompt == "cogact"
    first, again, other = (policy.infer([look(data)], seeds=[seed])[0].actions for seed in (0, 0, 1))
    assert first.shape == (4, 6)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def talking(data: str, tmp_path: Path, **config: str) -> Run:
    """A nano run with conversations beside the robot."""
    images = [np.full((28, 28, 3), 30 * i, dtype=np.uint8) for i in range(8)]
    talk = (Conversation(turns=(("Which zebra?", f"zebra {i % 2}"),), images=(x,)) for i, x in enumerate(images))
    path = write_conversations(iter(list(talk)), tmp_path / "talk")
    run = override(
        find_recipe("cogact-nano")(data=data, steps=2, batch_size=6),
        {**TINY, **config, "processor.image_roles": "scene", "stages.train.log_every": "1"},
    )
    (robot,) = run.stages["train"].mixture.sources
    robot = replace(robot, options={})
    sources = (robot, Source(name="talk", path=str(path), options={"objective": "conversation"}))
    stage = replace(run.stages["train"], mixture=Mixture(sources=sources), validate_every=0)
    return replace(run, stages={"train": stage})


def test_with_an_output_layer_it_learns_to_answer(data: str, tmp_path: Path) -> None:
    options = {"config.text_output": "own", "config.gradient_decoupling": "true"}
    last = train(talking(data, tmp_path, **options), tmp_path / "run", threads=1)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert any("loss/text" in line for line in lines)
    policy = load_policy(last)
    ask = Conversation(turns=(("Which zebra?", ""),), images=(np.full((28, 28, 3), 30, dtype=np.uint8),))
    (answer,) = policy.answer([ask], max_new_tokens=3)
    assert answer == answer.strip()
    assert np.isfinite(policy.infer([look(data)])[0].actions).all()


def test_questions_without_an_output_layer_are_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Source 'talk' has questions and answers, but this model has no output layer"):
        train(talking(data, tmp_path), tmp_path / "run", threads=1)


def test_published_settings_with_public_words(data: str, tmp_path: Path) -> None:
    llama = write_model(tmp_path / "llama")
    LlamaModel(
        LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            rms_norm_eps=1e-5,
        )
    ).save_pretrained(llama)  # fmt: skip
    recipe = find_recipe("cogact")(data=data, size="nano", llm=str(llama), steps=1, batch_size=4, accumulate=2)
    last = train(override(recipe, TINY), tmp_path / "run", threads=1)
    policy = load_policy(last)
    assert policy.processor.tokenizer.empty_id is not None
    assert policy.processor.config.binary_grippers  # as published
    assert policy.provenance["weights"]["sources"] == {"llm": "llama"}
    assert np.isfinite(policy.infer([look(data)])[0].actions).all()
    tuned = find_recipe("finetune")(data=data, start=str(last), freeze_prefix=True)
    assert set(tuned.stages["train"].trains) == {"action_model"}


def test_the_recipe_says_what_was_published(data: str) -> None:
    run: Any = find_recipe("cogact")(data=data, dinov2="a", siglip="b", llm="c")
    stage = run.stages["train"]
    assert (stage.trains, stage.weight_decay, stage.clip, stage.batch_size) == ({"*": 2e-5}, 0.0, 1.0, 256)
    assert (stage.warmup, stage.final_lr, stage.precision) == (0, 1.0, "house")
    assert run.weights == {"dinov2": "a", "siglip": "b", "llm": "c"}
    assert (run.config.llm.width, run.config.num_views, run.config.llm.convolution) == (4096, 1, 0)
    assert run.processor["image_roles"] == ("scene",)
    made = processor_config(run)
    assert (made.action_width, made.horizon, made.prompt, made.image_size) == (6, 16, "cogact", None)
