import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Bool, Float, Int64, TypeCheckError, UInt8, jaxtyped
from torch import Tensor

from tests.data.fakes import CORPUS, FakeDataset, embodiment
from visuomotor.contract import Batch, TextKind
from visuomotor.data.augment import AugmentConfig
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.sample import Sample
from visuomotor.text.action_tokens import decode_bins

ALL = {"subtask": 1.0, "box": 1.0, "trajectory": 1.0, "action": 1.0}


@jaxtyped(typechecker=beartype)
def check_shapes(
    images: dict[str, UInt8[Tensor, "B h w 3"]],
    text_ids: Int64[Tensor, "B L"],
    text_valid: Bool[Tensor, "B L"],
    text_kind: Int64[Tensor, "B L"],
    text_loss: Bool[Tensor, "B L"],
    state: Float[Tensor, "B S"],
    actions: Float[Tensor, "B T A"] | None,
    action_valid: Bool[Tensor, "B T A"] | None,
    embodiment: Int64[Tensor, "B"],
    source: Int64[Tensor, "B"],
    text_turn: Int64[Tensor, "B L"] | None,
    image_valid: Bool[Tensor, "B V"],
    goal: dict[str, UInt8[Tensor, "B h w 3"]],
    control_hz: Float[Tensor, "B"],
    row: Int64[Tensor, "B"],
) -> None:
    """Raises when the sizes disagree."""


def check(batch: Batch) -> None:
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    check_shapes(**{k: v for k, v in values.items() if k not in ("rows", "weights", "labels")})


def build(dataset: FakeDataset, **config: object) -> Processor:
    return Processor.build(ProcessorConfig(**config), [dataset], CORPUS)  # type: ignore[arg-type]


def sample(processor: Processor, dataset: FakeDataset, row: int, objective: str = "robot", seed: int = 0) -> Sample:
    images = {c: dataset.frames(c, np.array([row]))[0] for c in dataset.cameras}
    return processor.sample(0, dataset, row, images, np.random.default_rng(seed), objective)  # type: ignore[arg-type]


def decoded(processor: Processor, one: Sample) -> str:
    return processor.tokenizer.decode(one.text_ids)


def test_batch_has_the_contract_shapes() -> None:
    dataset = FakeDataset()
    processor = build(dataset, levels=ALL)
    batch = processor.collate([sample(processor, dataset, r) for r in (0, 5, 33)])
    check(batch)
    assert batch.text_ids.shape[1] % 8 == 0
    assert list(batch.images) == ["scene", "wrist"]
    assert batch.views == (True, True)
    assert batch.state.dtype == batch.actions.dtype == torch.float32  # type: ignore[union-attr]
    assert not (batch.text_loss & ~batch.text_valid).any()
    assert (batch.text_kind[~batch.text_valid] == TextKind.PAD).all()
    check(processor.collate([sample(processor, dataset, r, "grounding") for r in (0, 5)]))
    check(processor.observations([dataset.observation(3)], levels=("subtask",)))
    with pytest.raises(TypeCheckError):
        check(dataclasses.replace(batch, state=batch.state[:2]))


def test_samples_of_other_views_share_a_batch_where_asked() -> None:
    dataset = FakeDataset()
    processor = build(dataset, weights=("chunk",), levels={})
    rows = [sample(processor, dataset, 3), sample(processor, dataset, 3, "questions")]
    with pytest.raises(ValueError, match="cannot share a batch"):
        processor.collate(rows)
    batch = processor.collate(rows, rows=(4, 16), mix_views=True)
    check(batch)
    assert batch.image_valid.tolist() == [[True, True], [True, False]]
    assert batch.views == (True, True)
    assert batch.images["wrist"][0].any()
    assert not batch.images["wrist"][1].any()
    assert batch.weights["chunk"][0].all()
    assert not batch.weights["chunk"][1].any()
    assert (batch.row.tolist(), batch.rows) == ([4, 5], 16)  # type: ignore[union-attr]
    assert batch.control_hz.tolist() == [10.0, 10.0]  # type: ignore[union-attr]
    piece = batch.map(lambda tensor: tensor[1:])
    assert (piece.views, piece.image_valid.tolist(), piece.rows) == ((True, True), [[True, False]], 16)


def test_goals_are_images_of_their_own() -> None:
    dataset = FakeDataset()
    processor = build(dataset, goal_roles=("scene",), levels={})
    now, later = ({c: dataset.frames(c, np.array([r]))[0] for c in dataset.cameras} for r in (3, 17))
    one = processor.sample(0, dataset, 3, now, np.random.default_rng(0), goal=later)
    asked = dataclasses.replace(dataset.observation(3), goal=later)
    for batch in (processor.collate([one]), processor.observations([asked])):
        assert list(batch.goal) == ["scene"]
        assert (batch.goal["scene"][..., 0] == 17).all()
    assert not processor.observations([dataset.observation(3)]).goal
    with pytest.raises(ValueError, match="missing from the observation's goal"):
        processor.observations([dataclasses.replace(asked, goal={"wrist_camera": later["wrist_camera"]})])
    with pytest.raises(ValueError, match="must be among image_roles"):
        ProcessorConfig(goal_roles=("side",))


def test_actions_are_normalised_padded_and_invertible() -> None:
    dataset = FakeDataset()
    processor = build(dataset)
    one = sample(processor, dataset, 4)
    assert one.actions is not None
    assert one.action_valid is not None
    assert one.actions.shape == (8, 8)
    assert one.action_valid[:, :6].all()
    assert not one.action_valid[:, 6:].any()
    assert (one.actions[:, 6:] == 0).all()
    back = processor.robot_actions(one.actions, dataset.columns["observation.state"][4])
    np.testing.assert_allclose(back, dataset.columns["action"][4:12], atol=1e-5)


def test_progress_is_that_of_now_and_of_the_chunks_end() -> None:
    dataset = FakeDataset()
    processor = build(dataset, progress=True)
    rows = [0, 14, 19]  # chunks of 8 in an episode of 20: whole, cut, a single step
    batch = processor.collate([sample(processor, dataset, row) for row in rows])
    expected = [[0, 8 / 20], [14 / 20, 19 / 20], [19 / 20, 19 / 20]]
    np.testing.assert_allclose(batch.labels["progress"].numpy(), expected, rtol=1e-6)
    assert not build(dataset).collate([sample(build(dataset), dataset, 0)]).labels


def test_steps_after_the_episode_repeat_and_are_invalid() -> None:
    dataset = FakeDataset()
    processor = build(dataset)
    one = sample(processor, dataset, 17)  # the first episode has 20 frames
    assert one.actions is not None
    assert one.action_valid is not None
    np.testing.assert_array_equal(one.action_valid[:, 0], [True] * 3 + [False] * 5)
    np.testing.assert_array_equal(one.actions[3:], np.tile(one.actions[2], (5, 1)))
    assert (one.text_kind == TextKind.ACTION).sum() == 3 * 6 + 1 + len(processor.tokenizer.encode("Action:"))


def test_chunk_start_actions_are_differences_and_come_back() -> None:
    dataset = FakeDataset()
    processor = build(dataset, action_reference="chunk_start")
    one = sample(processor, dataset, 4)
    assert one.actions is not None
    state = dataset.columns["observation.state"][4]
    back = processor.robot_actions(one.actions, state)
    np.testing.assert_allclose(back, dataset.columns["action"][4:12], atol=1e-4)
    moved = processor.robot_actions(one.actions, state + np.float32([0.5, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(moved[:, 0], back[:, 0] + 0.5, atol=1e-4)
    np.testing.assert_allclose(moved[:, 1:], back[:, 1:], atol=1e-6)


def test_text_holds_all_levels_and_the_tokens_of_the_actions() -> None:
    dataset = FakeDataset()
    processor = build(dataset, levels=ALL, action_token_stride=2)
    one = sample(processor, dataset, 4)
    text = decoded(processor, one)
    assert text.startswith(
        "put the red block into the left bowl\nSubtask: reach for the red block\n"
        "Box: red block 104 200 164 260; left bowl 300 500 420 600\nTrajectory: main gripper: (104,300) (108,300)"
    )
    ids = one.text_ids[(one.text_ids >= processor.tokenizer.action_start) & (one.text_kind == TextKind.ACTION)]
    bins = ids[(ids < processor.tokenizer.action_start + 255)] - processor.tokenizer.action_start
    assert one.actions is not None
    wanted = np.clip(one.actions[::2, :6], -1, 1)
    np.testing.assert_allclose(decode_bins(bins).reshape(4, 6), wanted, atol=1 / 254 + 1e-6)


def test_levels_are_dropped_with_their_probability() -> None:
    dataset = FakeDataset()
    processor = build(dataset, levels={"subtask": 0.5})
    kept = sum("Subtask:" in decoded(processor, sample(processor, dataset, 3, seed=s)) for s in range(200))
    assert 70 < kept < 130


def test_a_column_of_annotations_that_is_missing_is_named() -> None:
    dataset = FakeDataset()
    dataset.annotations = lambda rows: None  # type: ignore[method-assign, assignment]
    processor = build(dataset, levels={"subtask": 1.0})
    with pytest.raises(ValueError, match="fake-0 has no annotations"):
        sample(processor, dataset, 0)
    assert sample(build(dataset, levels={"action": 1.0}), dataset, 0).actions is not None


def test_grounding_asks_several_questions_and_has_no_actions() -> None:
    dataset = FakeDataset()
    processor = build(dataset, questions_per_image=6)
    one = sample(processor, dataset, 7, "grounding")
    text = decoded(processor, one)
    assert text.count("?") >= 6
    assert text.count("\n") == 12
    assert one.action_valid is not None
    assert not one.action_valid.any()
    answers = processor.tokenizer.decode(one.text_ids[one.text_loss])
    assert "?" not in answers
    assert set(one.text_kind[one.text_loss]) == {TextKind.ANSWER}
    short = build(dataset, questions_per_image=6, max_text=40)
    assert 0 < len(sample(short, dataset, 7, "grounding").text_ids) <= 40


def test_each_question_is_a_turn_and_boxes_need_one_view() -> None:
    dataset = FakeDataset()
    processor = build(dataset, questions_per_image=6)
    one = sample(processor, dataset, 7, "grounding")
    assert one.text_turn is not None
    ends = one.text_ids == processor.tokenizer.newline_id
    assert one.text_turn[ends].tolist() == [k for k in range(1, 7) for _ in range(2)]
    assert (np.diff(one.text_turn) >= 0).all()
    looking = sample(processor, dataset, 7, "boxes")
    assert looking.views == tuple(i == 0 for i in range(len(one.views)))
    assert list(looking.images) == list(one.images)[:1]
    assert all(line.startswith(("Where is the", "Box:")) for line in decoded(processor, looking).strip().split("\n"))
    assert sample(processor, dataset, 7).text_turn is None
    batch = processor.collate([one, sample(processor, dataset, 3, "grounding")])
    assert batch.text_turn is not None
    assert batch.text_turn[0, : len(one.text_turn)].tolist() == one.text_turn.tolist()


def test_boxes_move_with_the_shifted_image() -> None:
    dataset = FakeDataset(size=100)
    processor = build(dataset, levels={"box": 1.0}, augment=AugmentConfig(shift=0.1))
    plain = decoded(build(dataset, levels={"box": 1.0}), sample(build(dataset, levels={"box": 1.0}), dataset, 0))
    one = sample(processor, dataset, 0, seed=3)
    assert decoded(processor, one) != plain
    assert decoded(processor, one) == decoded(processor, sample(processor, dataset, 0, seed=3))


def test_observation_text_ends_with_the_forced_header() -> None:
    dataset = FakeDataset()
    processor = build(dataset)
    batch = processor.observations([dataset.observation(0)], levels=("box",), text=[{"subtask": "lift it"}])
    valid = batch.text_ids[0][batch.text_valid[0]]
    assert processor.tokenizer.decode(valid.numpy()) == "put the red block into the left bowl\nSubtask: lift it\nBox:"
    assert batch.actions is None
    assert not batch.text_loss.any()
    training = sample(build(dataset, levels={"subtask": 1.0}), dataset, 0).text_ids
    prompt = processor.observations([dataset.observation(0)], levels=("subtask",))
    forced = prompt.text_ids[0][prompt.text_valid[0]].numpy()
    np.testing.assert_array_equal(training[: len(forced)], forced)


def test_parse_text_goes_on_from_a_forced_header() -> None:
    processor = build(FakeDataset())
    ids = processor.tokenizer.encode(" reach for the red block\nBox: red")
    assert processor.parse_text(ids, "subtask") == {"subtask": "reach for the red block", "box": "red"}


def test_save_and_load(tmp_path: Path) -> None:
    dataset = FakeDataset()
    processor = build(dataset, levels=ALL, action_reference="chunk_start", augment=AugmentConfig(shift=0.1))
    processor.save(tmp_path)
    loaded = Processor.load(tmp_path)
    assert loaded.config == processor.config
    assert loaded.embodiments == processor.embodiments
    a, b = (p.collate([sample(p, dataset, 9)]) for p in (processor, loaded))
    for name in ("text_ids", "state", "actions"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    meaning = json.loads((tmp_path / "processor.json").read_text())["normalization"][0]
    assert meaning["action"] == {"position": "quantile", "joints": "limits", "gripper": "none"}


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"processor\.json is missing"):
        Processor.load(tmp_path)
    build(FakeDataset()).save(tmp_path)
    path = tmp_path / "processor.json"
    path.write_text(path.read_text()[:300])
    with pytest.raises(ValueError, match=r"processor\.json is damaged"):
        Processor.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "Camera 'scene_camera' .role 'scene'. is missing from the observation"),
        ({"state": np.zeros(5, dtype=np.float32)}, "state has shape .5. but embodiment 'arm' has 6 dimensions"),
        ({"state": np.array([0, 0, np.nan, 0, 0, 0])}, "state dimension 2 .position.z. is nan"),
        ({"images": {"scene_camera": np.zeros((4, 4, 3), np.float32)}}, "give uint8"),
    ],
)
def test_bad_observations_are_refused(change: dict[str, object], message: str) -> None:
    dataset = FakeDataset()
    processor = build(dataset)
    with pytest.raises(ValueError, match=message):
        processor.observations([dataclasses.replace(dataset.observation(0), **change)])  # type: ignore[arg-type]


def test_a_state_that_is_not_told_is_zeros_and_still_checked(tmp_path: Path) -> None:
    dataset = FakeDataset()
    build(dataset, tell_state=False, action_reference="chunk_start").save(tmp_path)
    processor, told = Processor.load(tmp_path), build(dataset, action_reference="chunk_start")
    hidden, known = (sample(p, dataset, 4) for p in (processor, told))
    assert known.state.any()
    assert not hidden.state.any()
    assert not processor.observations([dataset.observation(3)]).state.any()
    assert np.array_equal(hidden.actions, known.actions)  # type: ignore[arg-type]
    bad = dataclasses.replace(dataset.observation(0), state=np.array([0, 0, np.nan, 0, 0, 0]))
    with pytest.raises(ValueError, match="state dimension 2"):
        processor.observations([bad])


def test_nan_actions_name_the_row_that_holds_them() -> None:
    dataset = FakeDataset()
    processor = build(dataset)
    dataset.columns["action"][25, 1] = np.inf
    processor._prepared.clear()
    assert sample(processor, dataset, 10).actions is not None
    with pytest.raises(ValueError, match=r"action dimension 1 \(position.y\) is inf in row 25 \(episode 1, frame 5\)"):
        sample(processor, dataset, 21)


def test_missing_camera_role_is_refused_unless_optional() -> None:
    dataset = FakeDataset(robot=embodiment(roles=("scene",)))
    with pytest.raises(ValueError, match="wants camera role 'wrist' but embodiment 'arm'"):
        build(dataset)
    processor = build(dataset, optional_roles=("wrist",))
    batch = processor.collate([sample(processor, dataset, 0)])
    assert batch.views == (True, False)
    assert list(batch.images) == ["scene"]


def test_scenes_do_not_enter_the_statistics() -> None:
    dataset, scenes = FakeDataset(), FakeDataset(seed=1)
    scenes.scenes = True
    scenes.columns["action"] = np.zeros_like(scenes.columns["action"])
    processor = Processor.build(ProcessorConfig(), [scenes, dataset], CORPUS)
    assert processor.statistics == build(dataset).statistics
    with pytest.raises(ValueError, match="No data set holds demonstrations"):
        build(scenes)


def test_the_datas_own_words_join_the_corpus() -> None:
    dataset = FakeDataset()
    words = [dataset.instruction(0), "reach for the red block", "left bowl"]
    without, given = Processor.build(ProcessorConfig(), [dataset]).tokenizer, build(dataset).tokenizer
    assert [len(without.encode(w)) for w in words] == [len(given.encode(w)) for w in words]
    assert Processor.build(ProcessorConfig(), [dataset], tokenizer=given).tokenizer is given


def test_embodiments_are_pooled_or_kept_apart_by_meaning() -> None:
    other = FakeDataset(robot=dataclasses.replace(embodiment(), control_hz=20.0))
    processor = Processor.build(ProcessorConfig(), [FakeDataset(), FakeDataset(seed=1), other], CORPUS)
    assert len(processor.embodiments) == 2
    assert processor.embodiment_index(other.embodiment) == 1
    with pytest.raises(ValueError, match="The data is for embodiment 'arm' but this processor"):
        processor.embodiment_index(dataclasses.replace(embodiment(), control_hz=5.0))


def test_images_are_brought_to_the_models_size() -> None:
    dataset = FakeDataset(size=32)
    processor = build(dataset, image_size=16)
    assert sample(processor, dataset, 0).images["scene"].shape == (16, 16, 3)
    a, b = sample(processor, dataset, 0), sample(build(FakeDataset(size=8)), FakeDataset(size=8), 0)
    with pytest.raises(ValueError, match="set image_size"):
        processor.collate([a, b])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": {"dream": 1.0}}, "Unknown scaffold levels"),
        ({"levels": {"box": 2.0}}, "must lie in 0-1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"level_order": ("box", "subtask")}, "must name each of"),
        ({"level_order": ("box", "subtask", "trajectory", "action"), "scaffold": "parallel"}, "has no meaning"),
        ({"scaffold": "soft"}, "scaffold is 'soft'.* Known: sequential, parallel"),
        ({"action_tokens": "vq"}, "action_tokens is 'vq'.* Known: bins, fast"),
        ({"fast_scale": 0.0}, "must be above 0"),
        ({"image_roles": ()}, "at least one camera role"),
    ],
)
def test_contradictory_configurations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProcessorConfig(**options)  # type: ignore[arg-type]


def test_too_long_a_text_names_the_row() -> None:
    dataset = FakeDataset()
    with pytest.raises(ValueError, match=r"row 2 \(episode 0, frame 2\).*max_text is 20"):
        sample(build(dataset, max_text=20), dataset, 2)


def test_coarse_coordinates_take_fewer_digits_in_texts() -> None:
    processor = build(FakeDataset(), levels=ALL, coordinates=100)
    text = decoded(processor, sample(processor, FakeDataset(), 4))
    assert "Box: red block 10 20 16 26; left bowl 30 50 42 60\n" in text
    assert "(10,30)" in text
    assert processor.config.coordinate(1000) == 99


def test_levels_stand_in_the_order_that_is_set_and_are_read_in_any(tmp_path: Path) -> None:
    order = ("box", "trajectory", "subtask", "action")
    dataset = FakeDataset()
    processor = build(dataset, levels=ALL, level_order=order)
    text = decoded(processor, sample(processor, dataset, 4))
    found = [text.index(header) for header in ("Box:", "Trajectory:", "Subtask:", "Action:")]
    assert found == sorted(found)
    levels = {"subtask": "lift it", "box": "cup 1 2 3 4"}
    batch = processor.observations([dataset.observation(0)], levels=("action",), text=[levels])
    asked = processor.tokenizer.decode(batch.text_ids[0][batch.text_valid[0]].numpy())
    assert asked.endswith("Box: cup 1 2 3 4\nSubtask: lift it\nAction:")
    processor.save(tmp_path)
    assert Processor.load(tmp_path).config.level_order == order


def test_parallel_levels_are_turns_in_training_and_from_an_observation() -> None:
    dataset = FakeDataset()
    processor = build(dataset, levels={**ALL, "trajectory": 0.0}, scaffold="parallel")
    one = sample(processor, dataset, 4)
    assert one.text_turn is not None
    assert set(one.text_turn[one.text_kind == TextKind.PROMPT]) == {0}
    for turn, kind in ((1, TextKind.SUBTASK), (2, TextKind.BOX), (4, TextKind.ACTION)):
        assert set(one.text_turn[one.text_kind == kind]) == {turn}
    silent = sample(build(dataset, levels={}, scaffold="parallel"), dataset, 4)
    assert silent.text_turn is None
    batch = processor.collate([silent, one])  # whose first sample has one turn alone
    assert batch.text_turn is not None
    assert batch.text_turn[1].max() == 4
    levels = {"box": "red block 104 200 164 260"}
    batch = processor.observations([dataset.observation(0)], levels=("subtask",), text=[levels])
    assert batch.text_turn is not None
    text = processor.tokenizer.decode(batch.text_ids[0][batch.text_valid[0]].numpy())
    assert text.endswith("\nBox: red block 104 200 164 260\n")  # no header: each level begins from the prompt
    assert set(batch.text_turn[0][batch.text_kind[0] == TextKind.BOX].tolist()) == {2}


def test_fast_tokens_stand_for_the_chunk_and_are_saved(tmp_path: Path) -> None:
    dataset = FakeDataset()
    processor = build(dataset, levels=ALL, action_tokens="fast", fast_vocab=300)
    tokenizer = processor.tokenizer
    assert processor.fast is not None
    assert tokenizer.action_count == processor.fast.size
    assert tokenizer.action_start + tokenizer.action_count == tokenizer.vocab_size
    one = sample(processor, dataset, 4)
    assert one.actions is not None
    line = one.text_ids[one.text_loss & (one.text_kind == TextKind.ACTION)]
    decoded_actions = processor.decode_actions(line)
    assert decoded_actions is not None
    error = decoded_actions - one.actions
    assert np.sqrt((error**2).sum(0)).max() <= 0.5 * np.sqrt(8) / 10 + 1e-6
    assert (decoded_actions[:, 6:] == 0).all()
    assert processor.grammar("action").accepts(line)
    assert processor.decode_actions(line[1:]) is None
    processor.save(tmp_path)
    loaded = Processor.load(tmp_path)
    assert sample(loaded, dataset, 4).text_ids.tolist() == one.text_ids.tolist()
    (tmp_path / "fast.json").write_text("{")
    with pytest.raises(ValueError, match=r"fast\.json is damaged"):
        Processor.load(tmp_path)
    (tmp_path / "fast.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"fast\.json is missing"):
        Processor.load(tmp_path)
    with pytest.raises(ValueError, match="train a new one to change them"):
        Processor(ProcessorConfig(), loaded.embodiments, loaded.statistics, loaded.tokenizer, loaded.fast)
    longer = dataclasses.replace(loaded.config, horizon=9)
    with pytest.raises(ValueError, match="chunks of 8 steps, but horizon is 9"):
        Processor(longer, loaded.embodiments, loaded.statistics, loaded.tokenizer, loaded.fast)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_line_of_bins_becomes_a_chunk_again(stride: int) -> None:
    dataset = FakeDataset()
    processor = build(dataset, levels={"action": 1.0}, action_token_stride=stride)
    one = sample(processor, dataset, 4)
    assert one.actions is not None
    line = one.text_ids[one.text_loss]
    assert processor.grammar("action").accepts(line)
    back = processor.decode_actions(np.append(line, processor.tokenizer.pad_id))
    assert back is not None
    wanted = np.clip(one.actions, -1, 1)
    np.testing.assert_allclose(back[::stride, :6], wanted[::stride, :6], atol=1 / 254 + 1e-6)
    np.testing.assert_allclose(back[1], back[0] + (back[stride] - back[0]) / stride, atol=1e-6)
    for broken in (line[1:], np.append(line, processor.tokenizer.eos_id), line[:0]):
        assert processor.decode_actions(broken) is None
