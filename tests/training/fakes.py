"""A two-layer model and an in-memory data set, so that the trainer is tested without videos and attention."""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from tests.data.fakes import FakeDataset
from visuomotor import models
from visuomotor.contract import Batch, Losses, Mixture, Run, Sampled, Source, Stage, Term
from visuomotor.models.base import Model
from visuomotor.models.spec import ModelSpec
from visuomotor.training import assembly
from visuomotor.training.progress import Progress
from visuomotor.training.trainer import train

MODULE = "tests_fake_model"
PROCESSOR = {
    "image_size": None,
    "levels": {"subtask": 0.5}, "vocab_size": 640,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    width: int = 16
    horizon: int = 4
    action_dim: int = 8
    state_dim: int = 8
    vocab_size: int = 640
    pad_id: int = 0
    newline_id: int = 0
    poison_step: int = -1


class FakeModel(Model):
    """actions = head(relu(trunk(state)) + noise); terms "action" and "text" with different counts."""

    writes = True

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.config: FakeConfig = config
        self.trunk = nn.Linear(config.state_dim, config.width)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.horizon * config.action_dim)
        self.calls = 0

    def parts(self) -> dict[str, list[nn.Parameter]]:
        modules = {"trunk": self.trunk, "embed": self.embedding, "norm": self.norm, "head": self.head}
        return {name: list(module.parameters()) for name, module in modules.items()}

    def features(self, batch: Batch) -> Tensor:
        words = (self.embedding(batch.text_ids) * batch.text_valid[..., None]).mean(1)
        return self.norm(torch.relu(self.trunk(batch.state)) + words)

    def actions(self, batch: Batch) -> Tensor:
        shape = (batch.size, self.config.horizon, self.config.action_dim)
        return self.head(self.features(batch)).view(shape)

    def loss(
        self,
        batch: Batch,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        self.calls += 1
        assert batch.actions is not None
        assert batch.action_valid is not None
        jitter = 0.01 * torch.randn(batch.actions.shape, generator=generator)
        error = (self.actions(batch) - batch.actions - jitter).square() * batch.action_valid
        if self.training and self.calls == self.config.poison_step:
            error = error * float("nan")
        text = self.features(batch).square().mean(-1, keepdim=True) * batch.text_loss
        rows = torch.stack([text.detach().sum(1), batch.text_loss.sum(1).float()])
        return Losses(terms={
            "action": Term(sum=error.sum(), count=batch.action_valid.sum()),
            "text": Term(sum=text.sum(), count=batch.text_loss.sum(), weight=0.1, rows=rows),
        })  # fmt: skip

    def encode(self, batch: Batch) -> Batch:
        return batch

    def denoise(self, prefix: Batch, x: Tensor, t: Tensor) -> Tensor:
        return self.actions(prefix)[:, None].expand_as(x)

    def sample(self, batch: Batch, **options: Any) -> Sampled:
        return Sampled(actions=self.actions(batch)[:, None])


class MemoryDataset(FakeDataset):
    """What `Dataset(path)` returns in these tests; the path's name gives the seed ("data0")."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(seed=int(Path(path).name.removeprefix("data")))

    def hash(self) -> str:
        return f"hash of {self.root}"


def install(patch: Any) -> None:
    """Put model and data set in place of the real ones; `patch` is a pytest.MonkeyPatch."""
    spec = ModelSpec(name="fake", config=FakeConfig, presets={"nano": FakeConfig()}, build=FakeModel)
    patch.setitem(sys.modules, MODULE, SimpleNamespace(SPEC=spec))
    patch.setitem(models.MODELS, "fake", MODULE)
    patch.setattr(assembly, "Dataset", MemoryDataset)


def stage(name: str = "train", **options: Any) -> Stage:
    sources = (Source(name="robot", path="data0"), Source(name="other", path="data1"))
    values = {"steps": 6, "batch_size": 4, "warmup": 2, "log_every": 2, "checkpoint_every": 2, **options}
    return Stage(**{"name": name, "mixture": Mixture(sources=sources, validation=0.3), **values})


def make_run(*stages: Stage, **config: Any) -> Run:
    chosen = stages or (stage(),)
    return Run(
        name="fake", model="fake", config=FakeConfig(**config), processor=PROCESSOR,
        stages={s.name: s for s in chosen}, corpus=("a corpus",),
    )  # fmt: skip


def two_stages() -> Run:
    """What the kill tests train: averaging, accumulation, a second stage that starts from the first."""
    first = stage("align", steps=5, ema=0.9, accumulate=2, validate_every=3)
    second = stage("adapt", steps=4, trains={"head": 1e-2}, start="stage:align", ema=0.5)
    return make_run(first, second)


def trained_and_struck(out: Path, step: int, number: int) -> NoReturn:
    """In a process of its own: train `two_stages`, and send oneself the signal after a step."""
    os.dup2(os.open(out.with_suffix(".err"), os.O_CREAT | os.O_WRONLY), 2)

    def strike(state: Progress) -> None:
        if state.step == step:
            os.kill(os.getpid(), number)

    try:
        train(two_stages(), out, progress=strike, threads=1)
    except KeyboardInterrupt as stop:
        os.write(2, str(stop).encode())
        os._exit(130)
    os._exit(0)


if (
    __name__ == "__main__"
):  # FOLDER STEP:SIGNAL ...: trains FOLDER/whole and FOLDER/STEP:SIGNAL, prints {STEP:SIGNAL: exit status}
    import pytest

    install(pytest.MonkeyPatch())
    codes = {}
    train(two_stages(), Path(sys.argv[1]) / "whole", threads=1)  # uninterrupted; also spares the children imports
    for case in sys.argv[2:]:
        step, name = case.split(":")
        child = os.fork()
        if child == 0:
            trained_and_struck(Path(sys.argv[1]) / case, int(step), getattr(signal, name))
        codes[case] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(codes))
