from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.fakes import CORPUS, FakeDataset, embodiment
from visuomotor.contract import Annotation, Mixture, Source
from visuomotor.data.loader import Loader
from visuomotor.data.phases import episode_weights, label_shares, phase_signals
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.weighting import WEIGHTS, WeightingConfig, chunk_weight, trajectory_weight


class PushingDataset(FakeDataset):
    """Episodes in which the hand comes, touches a block in frames 8 to 12, stands still in 14 to 17, closes at 15."""

    def __init__(self) -> None:
        super().__init__(episodes=3)
        self.columns["annotation.contact"] = np.zeros(self.num_frames, dtype=bool)
        self.without: set[str] = set()
        for episode in range(self.num_episodes):
            frames = self.episode_slice(episode)
            frame = np.arange(frames.stop - frames.start)
            moving = np.where((frame >= 14) & (frame < 18), 0.0, 0.02)
            self.columns["observation.state"][frames, :3] = np.cumsum(moving)[:, None]
            self.columns["action"][frames, -1] = np.where(frame >= 15, -1.0, 1.0)
            self.columns["annotation.contact"][frames] = (frame >= 8) & (frame <= 12)

    def has(self, annotation: str) -> bool:
        return annotation not in self.without

    def annotation(self, row: int) -> Annotation:
        frame = row - int(self.starts[np.searchsorted(self.starts, row, side="right") - 1])
        near = {"red block": (300 + 100 * (frame in range(8, 13)), 500, 600, 700), "drawer": (300, 500, 400, 700)}
        where = {c: (370, 600) for c in self.cameras}
        return replace(super().annotation(row), boxes={c: near for c in self.cameras}, point=where)


def frames_on(dataset: FakeDataset, **options: object) -> list[int]:
    config = WeightingConfig(**options)  # type: ignore[arg-type]
    return np.flatnonzero(phase_signals(dataset, dataset.episode_slice(1), config)[:, 0]).tolist()


def test_each_signal_sees_its_own_phase() -> None:
    dataset = PushingDataset()
    last = dataset.lengths[1]
    assert frames_on(dataset) == list(range(15, last))
    assert frames_on(dataset, signal="contact") == list(range(8, 13))
    assert frames_on(dataset, signal="speed") == [14, 15, 16]
    away = set(range(8, 13))  # 30 from the block; inside its box otherwise; nobody speaks of the drawer it is before
    assert frames_on(dataset, signal="proximity", near=29) == [f for f in range(last) if f not in away]
    assert frames_on(dataset, signal="proximity", near=30) == list(range(last))


def test_the_gripper_s_signal_does_not_depend_on_which_value_is_open() -> None:
    dataset = PushingDataset()
    robot = dataset.embodiment
    swapped = replace(robot.action[-1], opened=-1.0, closed=1.0)
    other = PushingDataset()
    other.embodiment = replace(robot, action=(*robot.action[:-1], swapped))
    other.columns["action"][:, -1] *= -1
    assert frames_on(other) == frames_on(dataset)
    other.columns["action"][:, -1] = dataset.columns["action"][:, -1] = 0.0  # half way is open, as for the robot
    assert frames_on(other) == frames_on(dataset) == []


def test_weights_of_an_episode_do_not_see_its_neighbours() -> None:
    dataset = PushingDataset()
    for signal in ("gripper", "contact", "speed", "proximity"):
        config = WeightingConfig(signal=signal)
        whole = episode_weights(dataset, config)
        assert [len(w) for w in whole] == dataset.lengths
        for episode, w in enumerate(whole):
            own = phase_signals(dataset, dataset.episode_slice(episode), config)[:, 0]
            changes = [i for i in range(1, len(own)) if own[i] != own[i - 1]]
            np.testing.assert_array_equal(w, trajectory_weight([(u, u) for u in changes], len(own), config))


def test_a_push_is_labelled_by_contact_and_not_by_the_gripper() -> None:
    dataset = PushingDataset()
    dataset.columns["action"][:, -1] = -1.0
    assert set(label_shares(dataset, WeightingConfig()).values()) == {0.0}
    shares = label_shares(dataset, WeightingConfig(signal="contact", covers="phases"))
    assert list(shares) == sorted(dataset.instruction(e) for e in range(3))
    for episode, length in enumerate(dataset.lengths):  # in contact, seven frames before and two after
        assert shares[dataset.instruction(episode)] == pytest.approx((7 + 5 + 2) / length)


def sampled(config: ProcessorConfig, dataset: FakeDataset, row: int, objective: str = "robot"):
    processor = Processor.build(config, [dataset], CORPUS)
    images = {c: dataset.frames(c, np.array([row]))[0] for c in dataset.cameras}
    return processor.sample(0, dataset, row, images, np.random.default_rng(0), objective)  # type: ignore[arg-type]


def test_samples_carry_weights_of_their_chunk_and_zeros_after_the_episode() -> None:
    dataset = PushingDataset()
    config = ProcessorConfig(weights=WEIGHTS, router=True)
    trajectory = episode_weights(dataset, config.weighting)[1]
    start, length = dataset.episode_slice(1).start, dataset.lengths[1]
    for frame in (0, 9, 12, length - 3):
        one = sampled(config, dataset, start + frame)
        steps = min(8, length - frame)
        w, chunk = trajectory[frame : frame + steps], chunk_weight(steps, 0.8)
        wanted = {
            "trajectory": w, "chunk": chunk, "move": (1 - w) * chunk, "mani": w * chunk, "emphasis": chunk * (1 + w),
        }  # fmt: skip
        assert set(one.weights) == set(wanted)
        for name, values in wanted.items():
            np.testing.assert_allclose(one.weights[name][:steps], values, rtol=1e-5, atol=1e-7)
            assert not one.weights[name][steps:].any()
            assert one.weights[name].dtype == np.float32
        assert one.labels["router"] == (trajectory[frame] > 0.5)


def test_a_label_of_the_chunk_looks_ahead() -> None:
    dataset = PushingDataset()
    start = dataset.episode_slice(1).start
    labels = {
        label: [float(sampled(ProcessorConfig(router=True, weighting=WeightingConfig(label=label)), dataset,
                              start + frame).labels["router"]) for frame in (0, 1, 7, 8, 17, 18)]
        for label in ("now", "chunk")
    }  # fmt: skip
    assert labels == {"now": [0, 0, 0, 1, 1, 0], "chunk": [0, 1, 1, 1, 1, 0]}


def test_batches_carry_them_and_questions_do_not() -> None:
    dataset = PushingDataset()
    processor = Processor.build(ProcessorConfig(weights=("mani",), router=True), [dataset], CORPUS)
    images = {c: dataset.frames(c, np.array([0]))[0] for c in dataset.cameras}
    rng = np.random.default_rng(0)
    batch = processor.collate([processor.sample(0, dataset, row, images, rng) for row in (3, 10)])
    assert batch.weights["mani"].shape == (2, 8)
    assert batch.labels["router"].tolist() == [0.0, 1.0]
    assert batch.labels["router"].dtype == torch.float32
    assert not processor.sample(0, dataset, 3, images, rng, "grounding").weights
    plain = sampled(ProcessorConfig(), dataset, 3)
    assert not plain.weights
    assert not plain.labels


def test_a_processor_keeps_how_weights_are_made(tmp_path: Path) -> None:
    config = ProcessorConfig(
        weights=("emphasis",), weighting=WeightingConfig(signal="contact", sigma_seconds=(0.5, 0.2))
    )
    dataset = PushingDataset()
    Processor.build(config, [dataset], CORPUS).save(tmp_path)
    assert Processor.load(tmp_path).config == config


def test_what_a_signal_lacks_is_said_before_training() -> None:
    robot = embodiment()
    bare = replace(robot, action=robot.action[:-1])
    with pytest.raises(ValueError, match="no gripper command"):
        Processor.build(ProcessorConfig(router=True), [FakeDataset(robot=bare)], CORPUS)
    dataset = PushingDataset()
    dataset.without = {"contact"}
    config = ProcessorConfig(levels={}, router=True, weighting=WeightingConfig(signal="contact"))
    processor = Processor.build(config, [dataset], CORPUS)
    mixture = Mixture(sources=(Source(name="robot", path="x"),), validation=0.0)
    with pytest.raises(ValueError, match="no annotation 'contact'"):
        Loader(mixture, processor, batch_size=2, seed=0, datasets={"robot": dataset}, workers=0, cache=None)
    with pytest.raises(ValueError, match="Unknown loss weights"):
        ProcessorConfig(weights=("mani", "mini"))
