import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.fakes import CORPUS, FakeDataset, embodiment
from visuomotor.contract import Batch, Episode, Mixture, Source
from visuomotor.data.lerobot import Dataset, DatasetWriter
from visuomotor.data.loader import Loader, held_out
from visuomotor.data.processor import Processor, ProcessorConfig

ROBOT, SCENES = Source(name="robot", weight=3.0), Source(name="scenes", options={"objective": "grounding"})
MIXTURE = Mixture(sources=(ROBOT, SCENES), validation=0.3)


class Bench:
    """A processor with two data sets."""

    def __init__(self) -> None:
        self.datasets = {"robot": FakeDataset(seed=0), "scenes": FakeDataset(seed=1)}
        self.datasets["scenes"].scenes = True
        self.processor = Processor.build(ProcessorConfig(), list(self.datasets.values()), CORPUS)
        self.opened: list[Loader] = []

    def loader(self, mixture: Mixture = MIXTURE, **options: object) -> Loader:
        chosen = {"batch_size": 8, "seed": 3, "datasets": self.datasets, "workers": 0, "cache": None, **options}
        self.opened.append(Loader(mixture, self.processor, **chosen))  # type: ignore[arg-type]
        return self.opened[-1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for loader in bench.opened:
        loader.close()


def same(a: Batch, b: Batch) -> bool:
    tensors = ("text_ids", "text_kind", "state", "actions", "source")
    return all(torch.equal(getattr(a, t), getattr(b, t)) for t in tensors) and all(
        torch.equal(a.images[r], b.images[r]) for r in a.images
    )


def test_a_batch_depends_on_seed_and_number_only(bench: Bench) -> None:
    plain, threaded, other = bench.loader(), bench.loader(workers=2), bench.loader(seed=4)
    for _ in range(6):
        a, b, c = next(plain), next(threaded), next(other)
        assert same(a, b)
        assert not torch.equal(a.state, c.state)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_exactly(bench: Bench, workers: int) -> None:
    first = bench.loader(workers=workers)
    for _ in range(3):
        next(first)
    state = json.loads(json.dumps(first.state_dict()))
    expected = [next(first) for _ in range(3)]
    resumed = bench.loader(workers=workers)
    next(resumed)
    resumed.load_state_dict(state)
    assert all(same(a, next(resumed)) for a in expected)
    with pytest.raises(ValueError, match="seed 3 but this one 9"):
        bench.loader(seed=9).load_state_dict(state)


def test_every_batch_has_each_source_by_its_weight(bench: Bench) -> None:
    loader = bench.loader(batch_size=16)
    for batch in (next(loader) for _ in range(40)):
        assert (batch.source == 1).sum() == 4  # weight 1 against 3
        assert batch.action_valid is not None
        assert torch.equal(batch.action_valid.any(-1).any(-1), batch.source == 0)


@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_make_their_rows_of_the_same_batch(bench: Bench, ranks: int, mix: bool) -> None:
    looking = Source(name="looking", options={"objective": "boxes"})
    bench.datasets["looking"] = bench.datasets["robot"]
    mixture = Mixture(sources=(ROBOT, SCENES, looking), validation=0.3)
    whole = bench.loader(mixture, rows_may_mix_views=mix)
    parts = [bench.loader(mixture, rows_may_mix_views=mix, rank=r, ranks=ranks) for r in range(ranks)]
    for k in (0, 1, 2, 57):
        batch, slices = whole.batch(k), [part.batch(k) for part in parts]
        assert torch.equal(torch.cat([s.row for s in slices]), torch.arange(8))  # type: ignore[misc]
        assert {s.rows for s in slices} == {batch.rows} == {8}
        for found in slices:
            wanted = batch.map(lambda tensor, rows=found.row: tensor[rows])
            length = found.text_ids.shape[1]
            for name in ("image_valid", "state", "actions", "action_valid", "source", "embodiment", "control_hz"):
                assert torch.equal(getattr(found, name), getattr(wanted, name)), name
            for name in ("text_ids", "text_kind", "text_loss", "text_valid"):
                assert torch.equal(getattr(found, name), getattr(wanted, name)[:, :length]), name
            for role, image in wanted.images.items():
                assert torch.equal(found.images.get(role, torch.zeros_like(image)), image)
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        bench.loader(rank=2, ranks=2)


def test_a_row_draws_from_its_own_generator(bench: Bench) -> None:
    alone = Mixture(sources=(ROBOT,), validation=0.0)
    small, large = (bench.loader(alone, batch_size=size).batch(5) for size in (3, 8))
    assert torch.equal(small.state, large.state[:3])
    assert torch.equal(small.text_ids, large.text_ids[:3, : small.text_ids.shape[1]])
    assert len(large.state.unique(dim=0)) == 8


def test_goals_are_later_frames_of_the_episode(bench: Bench) -> None:
    data = bench.datasets["robot"]
    bench.processor = Processor.build(ProcessorConfig(goal_roles=("wrist",)), [data], CORPUS)
    loader = bench.loader(Mixture(sources=(ROBOT,), validation=0.0), batch_size=64)
    later = []
    for batch in (next(loader) for _ in range(4)):
        assert list(batch.goal) == ["wrist"]
        now, goal = (i[:, 0, 0, 0].numpy().astype(int) for i in (batch.images["wrist"], batch.goal["wrist"]))
        ends = np.asarray(data.starts)[np.searchsorted(data.starts, now, side="right")]
        assert ((goal >= now) & (goal < ends)).all()
        later.append((goal - now + 0.5) / (ends - now))
    assert 0.43 < np.concatenate(later).mean() < 0.57


def test_a_state_of_other_rules_of_drawing_is_refused(bench: Bench) -> None:
    state = bench.loader().state_dict()
    del state["draws"]
    with pytest.raises(ValueError, match="draws 1 but this one 2"):
        bench.loader().load_state_dict(state)


def test_validation_episodes_never_train(bench: Bench) -> None:
    seen: dict[str, set[int]] = {}
    alone = Mixture(sources=(ROBOT,), validation=0.3)
    for split in ("train", "validation"):
        loader = bench.loader(alone, split=split)
        rows = torch.cat([next(loader).images["scene"][:, 0, 0, 0] for _ in range(60)])
        dataset = bench.datasets["robot"]
        seen[split] = set((np.searchsorted(dataset.starts, rows.numpy(), side="right") - 1).tolist())
    chosen = held_out(6, 0.3)
    assert seen["validation"] == set(np.flatnonzero(chosen).tolist())
    assert seen["train"] == set(np.flatnonzero(~chosen).tolist())


def test_held_out_is_a_stable_share() -> None:
    many = held_out(10_000, 0.1)
    assert 0.09 < many.mean() < 0.11
    np.testing.assert_array_equal(held_out(20_000, 0.1)[:10_000], many)
    assert not held_out(10, 0.0).any()
    assert held_out(2, 0.01).sum() == held_out(2, 0.99).sum() == 1
    assert not held_out(1, 0.5).any()


def test_a_bad_sample_stops_the_run_and_names_file_and_row(bench: Bench) -> None:
    bench.datasets["robot"].broken_rows = set(range(1000))
    loader = bench.loader()
    with pytest.raises(ValueError, match=r"source 'robot', row \d+ \(episode.*of data set fake-0.*truncated"):
        next(loader)


def test_quarantine_lists_counts_and_stays_deterministic(bench: Bench, tmp_path: Path) -> None:
    dataset = bench.datasets["robot"]
    dataset.broken_rows = set(range(0, dataset.num_frames, 3))
    a = bench.loader(bad_samples="quarantine", quarantine=tmp_path / "bad.jsonl")
    b = bench.loader(bad_samples="quarantine", workers=2)
    for _ in range(10):
        batch = next(a)
        assert same(batch, next(b))
        rows = batch.images["scene"][batch.source == 0, 0, 0, 0]
        assert (rows % 3 != 0).all()
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert len(listed) == a.bad_count == len({entry["row"] for entry in listed}) > 5
    assert listed[0]["source"] == "robot"
    assert "truncated" in listed[0]["error"]


def test_a_source_that_is_all_bad_ends_the_run(bench: Bench) -> None:
    bench.datasets["robot"].broken_rows = set(range(1000))
    with pytest.raises(ValueError, match="100 bad samples in a row"):
        next(bench.loader(bad_samples="quarantine"))


def test_an_error_in_a_thread_arrives_and_the_batch_is_tried_again(bench: Bench) -> None:
    loader = bench.loader(workers=2)
    dataset = bench.datasets["robot"]
    dataset.broken_rows = set(range(1000))
    with pytest.raises(ValueError, match="truncated"):
        next(loader)
    dataset.broken_rows = set()
    assert same(next(loader), bench.loader().batch(0))


def test_different_views_never_share_a_batch() -> None:
    both, one = FakeDataset(seed=0), FakeDataset(seed=1, robot=embodiment(roles=("scene",)))
    processor = Processor.build(ProcessorConfig(optional_roles=("wrist",)), [both, one], CORPUS)
    mixture = Mixture(sources=(Source(name="both"), Source(name="one")), validation=0.0)
    datasets = {"both": both, "one": one}
    loader = Loader(mixture, processor, batch_size=4, seed=0, datasets=datasets, workers=0, cache=None)
    batches = [next(loader) for _ in range(20)]
    assert {b.views for b in batches} == {(True, True), (True, False)}
    assert all(len(set(b.source.tolist())) == 1 for b in batches)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (Mixture(sources=(Source(name="none"),)), "source 'none' but data sets are given for"),
        (Mixture(sources=(Source(name="robot", options={"objective": "sleep"}),)), "objective 'sleep'"),
        (Mixture(sources=(Source(name="robot", weight=0.0),)), "weight 0.0"),
        (Mixture(sources=(Source(name="scenes"),)), "holds unrelated scenes"),
    ],
)
def test_wrong_mixtures_are_refused(bench: Bench, mixture: Mixture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench.loader(mixture)


@pytest.mark.parametrize(
    ("source", "lacking", "message"),
    [
        (ROBOT, "subtask", r"'robot' \(data set fake-0\) has no annotation 'subtask', which level 'subtask'"),
        (SCENES, "boxes", "has no annotation 'boxes', which grounding questions"),
    ],
)
def test_a_text_without_its_annotation_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, source: Source, lacking: str, message: str
) -> None:
    monkeypatch.setattr(FakeDataset, "has", lambda self, annotation: annotation != lacking)
    with pytest.raises(ValueError, match=message):
        bench.loader(Mixture(sources=(source,)))


def test_no_validation_episodes_is_an_error_that_says_so(bench: Bench) -> None:
    with pytest.raises(ValueError, match="without validation episodes"):
        bench.loader(dataclasses.replace(MIXTURE, validation=0.0), split="validation")


def test_waiting_is_counted(bench: Bench) -> None:
    loader = bench.loader()
    next(loader)
    assert loader.wait_seconds > 0


def test_a_lerobot_folder_gives_the_same_batches_with_and_without_its_frame_cache(tmp_path: Path) -> None:
    fake = FakeDataset(2, size=24)
    with_text = ProcessorConfig(image_size=16, levels={"subtask": 0.5, "box": 0.5, "trajectory": 0.5, "action": 1.0})
    writer = DatasetWriter(tmp_path / "data", fake.embodiment, fps=10.0, storage="image")
    for e in range(2):
        rows = np.arange(fake.num_frames)[fake.episode_slice(e)]
        columns = {"state": fake.columns["observation.state"][rows], "actions": fake.columns["action"][rows]}
        images = {c: fake.frames(c, rows) for c in fake.cameras}
        annotations = tuple(fake.annotations(rows))
        writer.add(Episode(instruction=fake.instruction(e), images=images, annotations=annotations, **columns))
    writer.close()
    dataset = Dataset(tmp_path / "data")
    processor = Processor.build(with_text, [dataset])
    mixture = Mixture(sources=(Source(name="robot"),), validation=0.0)

    def loader(data: Any, cache: Path | None) -> Loader:
        return Loader(mixture, processor, batch_size=6, seed=0, datasets={"robot": data}, workers=0, cache=cache)

    decoded, cached, in_memory = loader(dataset, None), loader(dataset, tmp_path / "cache"), loader(fake, None)
    for _ in range(3):
        batch = next(decoded)
        assert same(batch, next(cached))
        assert same(batch, next(in_memory))
    assert batch.images["scene"].shape == (6, 16, 16, 3)
    assert list((tmp_path / "cache").iterdir())
