"""A run that learns from conversations beside a robot: words, hold-out and exact resume are as for robots alone."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.fakes import PROCESSOR, install, make_run, stage
from visuomotor.contract import Mixture, Run, Source
from visuomotor.data.conversations import Conversation, Conversations, write_conversations
from visuomotor.training.assembly import build_processor, open_datasets
from visuomotor.training.metrics import read_metrics
from visuomotor.training.progress import Progress
from visuomotor.training.trainer import Interrupted, train


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    install(monkeypatch)
    images = [np.full((16, 16, 3), i, dtype=np.uint8) for i in range(12)]
    talk = (Conversation(turns=(("Quokka?", f"zebra {i % 3}"),), images=(image,)) for i, image in enumerate(images))
    path = write_conversations(talk, tmp_path / "talk")
    sources = (
        Source(name="robot", path="data0"),
        Source(name="talk", path=str(path), options={"objective": "conversation"}),
    )
    made = make_run(stage(mixture=Mixture(sources=sources, validation=0.3), validate_every=3))
    return replace(made, processor={**PROCESSOR, "vocab_size": 1024, "image_size": 16}, config=big(made.config))


def big(config: Any) -> Any:
    return replace(config, vocab_size=1024)


def test_its_words_are_in_the_vocabulary(run: Run, tmp_path: Path) -> None:
    datasets = open_datasets(run, tmp_path / "cache")
    assert isinstance(datasets["talk"], Conversations)
    words = build_processor(run, datasets).tokenizer
    assert len(words.encode("Quokka")) < len(words.encode("Quaggax"))


@pytest.mark.parametrize("mix", [False, True])
def test_it_trains_and_resumes_exactly(run: Run, tmp_path: Path, mix: bool) -> None:
    run = replace(run, stages={name: replace(stage, mix_views=mix) for name, stage in run.stages.items()})
    whole = train(run, tmp_path / "whole", threads=1)
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert any("validation/source_loss/talk/text" in line for line in lines)

    def strike(state: Progress) -> None:
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut", threads=1, progress=strike)
    again = train(run, tmp_path / "cut", threads=1, resume=True)
    first, second = load_file(whole / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_changed_conversations_are_not_resumed(run: Run, tmp_path: Path) -> None:
    train(run, tmp_path / "run", threads=1)
    path = tmp_path / "talk" / "conversations.json"
    path.write_text(path.read_text().replace("zebra 0", "zebra 9"))
    with pytest.raises(ValueError, match="'talk' is not the one"):
        train(run, tmp_path / "run", threads=1, resume=True)
