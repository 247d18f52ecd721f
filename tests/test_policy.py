import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from visuomotor_client.chunking import ChunkRequest
from visuomotor_client.selection import medoid

from tests.data.fakes import CORPUS, FakeDataset, embodiment
from tests.holding import holding, leave_foreign_lock, snapshot
from visuomotor.contract import Batch, Sampled
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.locks import FolderInUse
from visuomotor.models import make_config, make_model
from visuomotor.policy import Policy, Session, load_policy
from visuomotor.text.grammar import Line
from visuomotor.text.scaffold import LEVELS

DATASET = FakeDataset(3)
PROCESSOR = Processor.build(ProcessorConfig(), [DATASET], CORPUS)
OBSERVATIONS = [DATASET.observation(row) for row in (3, 30, 50)]


class Echo(nn.Module):
    """Returns its noise as actions and a fixed line as text, and remembers what it was asked."""

    def __init__(self, line: str = " reach for the red block\n", broken: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace()
        self.line, self.broken = line, broken
        self.asked: list[str] = []

    def sample(self, batch: Batch, *, noise: Tensor, lines: Sequence[Line] = (), **_: object) -> Sampled:
        valid = [ids[mask].numpy() for ids, mask in zip(batch.text_ids, batch.text_valid, strict=True)]
        self.asked += [PROCESSOR.tokenizer.decode(ids) for ids in valid]
        self.asked += [PROCESSOR.tokenizer.decode(line.header) for line in lines if not line.given]
        ids = torch.from_numpy(PROCESSOR.tokenizer.encode(self.line).copy()).repeat(batch.size, 1)
        finished = torch.ones(batch.size, len(lines), dtype=torch.bool) if lines else None
        actions = noise * float("nan") if self.broken else noise
        return Sampled(actions=actions, lines=(ids,) * len(lines), finished=finished)


def dm0(**overrides: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {
        "vision.image_size": 16,
        "vision.patch_size": 4,
        "vision.width": 16,
        "vision.heads": 2,
        "vision.layers": 1,
        "vision.mlp_width": 16,
    }
    sizes |= {
        "llm.width": 16,
        "llm.mlp_width": 16,
        "expert.width": 16,
        "expert.mlp_width": 16,
        "llm.layers": 2,
        "llm.heads": 2,
    }
    sizes |= {"llm.kv_heads": 1, "llm.head_dim": 8, "denoise_steps": 2, "newline_id": PROCESSOR.tokenizer.newline_id}
    return make_model("dm0", make_config("dm0", **{**sizes, **overrides}))


def test_chunks_are_in_robot_units_and_carry_their_seed() -> None:
    policy = Policy(Echo(), PROCESSOR)
    chunk = policy.infer([OBSERVATIONS[0]], seeds=[7])[0]
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(7))[0].numpy()
    np.testing.assert_array_equal(chunk.actions, PROCESSOR.robot_actions(noise, OBSERVATIONS[0].state))
    assert chunk.actions.shape == (8, 6)
    assert chunk.extras["seed"] == 7
    assert chunk.extras["latency"] > 0
    assert chunk.embodiment == DATASET.embodiment


@pytest.mark.parametrize("think", [(), ("subtask",)])
def test_a_chunk_does_not_depend_on_its_batch(think: tuple[str, ...]) -> None:
    policy = Policy(dm0(), PROCESSOR, think=think, max_new_tokens=4)
    together = policy.infer(OBSERVATIONS, seeds=[1, 2, 3])
    for observation, seed, chunk in zip(OBSERVATIONS, (1, 2, 3), together, strict=True):
        alone = policy.infer([observation], seeds=[seed])[0]
        np.testing.assert_allclose(alone.actions, chunk.actions, atol=1e-5)
        assert alone.text == chunk.text
    other = policy.infer(OBSERVATIONS[:1], seeds=[9])[0]
    assert np.abs(other.actions - together[0].actions).max() > 1e-3


def test_a_session_with_a_seed_repeats_itself_after_a_reset() -> None:
    policy = Policy(Echo(), PROCESSOR)
    session = Session(seed=5)
    first = [policy.infer(OBSERVATIONS[:1], [session])[0].actions for _ in range(3)]
    assert len(session.history) == session.calls == 3
    session.reset()
    again = [policy.infer(OBSERVATIONS[:1], [session])[0].actions for _ in range(3)]
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    session.reset(seed=6)
    assert (policy.infer(OBSERVATIONS[:1], [session])[0].actions != first[0]).any()


def test_text_is_reused_for_the_stated_number_of_calls() -> None:
    model = Echo()
    policy = Policy(model, PROCESSOR, think=("subtask",), think_every=2)
    session = Session()
    chunks = [policy.infer(OBSERVATIONS[:1], [session])[0] for _ in range(4)]
    assert {c.text["subtask"] for c in chunks} == {"reach for the red block"}
    prompt = "put the red block into the left bowl\nSubtask:"
    assert model.asked == [prompt, f"{prompt} reach for the red block\n"] * 2


def test_sessions_that_think_and_sessions_that_reuse_share_a_call() -> None:
    model = Echo()
    policy = Policy(model, PROCESSOR, think=("subtask",), think_every=3)
    sessions = [Session(), Session(), None]
    policy.infer(OBSERVATIONS[:1], [sessions[0]])
    chunks = policy.infer(OBSERVATIONS, sessions, seeds=[1, 2, 3])
    assert [c.text for c in chunks] == [{"subtask": "reach for the red block"}] * 3
    alone = [policy.infer([o], seeds=[s])[0] for o, s in zip(OBSERVATIONS, (1, 2, 3), strict=True)]
    for a, b in zip(chunks, alone, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)


def test_progress_is_told_and_moves_as_far_as_the_chunk_was_executed() -> None:
    told: list[float] = []

    class Progress(Echo):
        def sample(self, batch: Batch, **given: Any) -> Sampled:
            told.extend(batch.labels["progress"][:, 0].tolist())
            done = super().sample(batch, **given)
            return dataclasses.replace(done, extras={"progress": torch.full((batch.size, 1), 0.8)})

    model = Progress()
    model.config.progress_token = True
    policy = Policy(model, PROCESSOR)
    half, whole = Session(executed=4), Session()
    for _ in range(3):
        chunks = policy.infer(OBSERVATIONS[:2], sessions=[half, whole])
    assert [chunk.extras["progress"] for chunk in chunks] == pytest.approx([0.8, 0.8])
    assert told == pytest.approx([0, 0, 0.4, 0.8, 0.6, 0.8])
    again = [policy.infer(OBSERVATIONS[:1], sessions=[half])[0] for _ in range(2)]
    assert len(again) == 2
    assert told[-2:] == pytest.approx([0.7, 0.75])  # once for each chunk
    model.broken = True
    with pytest.raises(ValueError, match="NaN"):
        policy.infer(OBSERVATIONS[:1], sessions=[half])
    before = half.progress_now()
    model.broken = False
    policy.infer(OBSERVATIONS[:1], sessions=[half])
    assert told[-1] == pytest.approx(before)  # a call that failed moved nothing
    half.reset()
    assert half.progress == 0
    far = Session(progress=0.9)
    far.remember(dataclasses.replace(chunks[0], extras={"progress": 7.0}), fresh=True)
    assert far.progress_now() == 1.0  # what the model says is raw


def test_the_head_that_acted_is_told_where_routing_has_hysteresis() -> None:
    told: list[list[int]] = []

    class Routed(Echo):
        def sample(self, batch: Batch, **given: Any) -> Sampled:
            if "head" in batch.labels:
                told.append(batch.labels["head"].tolist())
            chance = torch.linspace(0.4, 0.6, batch.size)
            extras = {"router": chance, "head": (chance >= 0.5).long()}
            return dataclasses.replace(super().sample(batch, **given), extras=extras)

    policy = Policy(Routed(), PROCESSOR)
    chunks = policy.infer(OBSERVATIONS[:2], sessions=[Session(), Session()])
    assert [chunk.extras["router"] for chunk in chunks] == pytest.approx([0.4, 0.6])
    assert [chunk.extras["head"] for chunk in chunks] == [0, 1]
    assert not told
    policy.model.config.hysteresis = 0.1
    sessions = [Session(), Session()]
    for _ in range(2):
        policy.infer(OBSERVATIONS[:2], sessions=sessions)
    assert told == [[-1, -1], [0, 1]]


def test_several_levels_are_thought_one_after_the_other() -> None:
    model = Echo(line=" red block 1 2 3 4\n")
    chunk = Policy(model, PROCESSOR, think=("box", "subtask")).infer(OBSERVATIONS[:1])[0]
    assert chunk.text == {"subtask": "red block 1 2 3 4", "box": "red block 1 2 3 4"}
    assert model.asked[0].endswith("\nSubtask:")
    assert model.asked[1:] == ["Box:"]  # one call: the prefix is not encoded again


@pytest.mark.parametrize("scaffold", ["sequential", "parallel"])
def test_what_is_written_is_well_formed_and_in_the_order_of_the_data(scaffold: str) -> None:
    order = ("box", "subtask", "trajectory", "action") if scaffold == "sequential" else LEVELS
    config = dataclasses.replace(PROCESSOR.config, scaffold=scaffold, level_order=order)
    processor = Processor(config, PROCESSOR.embodiments, PROCESSOR.statistics, PROCESSOR.tokenizer)
    limits = {"box": 30, "subtask": 6}
    policy = Policy(dm0(), processor, think=("subtask", "box"), max_new_tokens=limits, box_names=("red block",))
    assert policy.think == tuple(level for level in order if level in limits)
    for chunk in policy.infer(OBSERVATIONS, seeds=[1, 2, 3]):
        assert list(chunk.text) == list(policy.think)
        assert re.fullmatch(r"red block( \d+){4}(; red block( \d+){4})*", chunk.text["box"])
        assert chunk.text["subtask"]
    free = Policy(dm0(), processor, think=("box",), constrain=False).infer(OBSERVATIONS, seeds=[1, 2, 3])
    assert not any(chunk.text["box"].startswith("red block") for chunk in free)  # it is untrained


def test_when_time_is_up_levels_are_dropped_and_the_chunk_is_that_of_a_policy_that_does_not_think() -> None:
    hasty = Policy(dm0(), PROCESSOR, think=("subtask", "box"), think_seconds=0.0)
    session = Session()
    chunk = hasty.infer(OBSERVATIONS[:1], [session], seeds=[1])[0]
    assert chunk.text == {}
    assert chunk.extras["unfinished"] == ["subtask", "box"]
    silent = Policy(dm0(), PROCESSOR).infer(OBSERVATIONS[:1], seeds=[1])[0]
    np.testing.assert_allclose(chunk.actions, silent.actions, atol=1e-5)
    assert not hasty._reusable(session)
    patient = Policy(dm0(), PROCESSOR, think=("subtask",), think_seconds=60.0)
    assert "unfinished" not in patient.infer(OBSERVATIONS[:1], seeds=[1])[0].extras


@pytest.mark.parametrize("action_tokens", ["bins", "fast"])
def test_a_chunk_may_be_read_from_action_tokens(action_tokens: str) -> None:
    config = ProcessorConfig(action_tokens=action_tokens, fast_vocab=300)  # type: ignore[arg-type]
    processor = Processor.build(config, [DATASET], CORPUS)
    words = processor.tokenizer
    ids = {"action_start_id": words.action_start, "action_token_count": words.action_count}
    model = dm0(**ids, **{"llm.vocab_size": words.vocab_size}, newline_id=words.newline_id)
    policy = Policy(model, processor, actions_from="tokens", think=("subtask",), max_new_tokens=4)
    first, second = (policy.infer(OBSERVATIONS, seeds=seeds) for seeds in ([1, 2, 3], [4, 5, 6]))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)  # greedy: no noise enters
        assert list(a.text) == ["subtask"]
        assert "malformed" not in a.extras
    alone = policy.infer(OBSERVATIONS[1:2], seeds=[9])[0]
    np.testing.assert_array_equal(alone.actions, first[1].actions)
    assert policy.malformed == 0


def test_a_malformed_line_of_action_tokens_is_counted_and_the_flow_acts() -> None:
    policy = Policy(dm0(), PROCESSOR, actions_from="tokens", constrain=False)
    chunks = policy.infer(OBSERVATIONS, seeds=[1, 2, 3])
    flow = Policy(dm0(), PROCESSOR).infer(OBSERVATIONS, seeds=[1, 2, 3])
    for a, b in zip(chunks, flow, strict=True):
        assert a.extras["malformed"]
        np.testing.assert_allclose(a.actions, b.actions, atol=1e-5)
    assert policy.malformed == 3


def test_what_the_text_points_at_comes_with_the_chunk_in_coordinates_of_the_image() -> None:
    config = dataclasses.replace(PROCESSOR.config, coordinates=100)
    processor = Processor(config, PROCESSOR.embodiments, PROCESSOR.statistics, PROCESSOR.tokenizer)
    marks = Policy(Echo(" red block 1 2 3 99\n"), processor, think=("box",)).infer(OBSERVATIONS[:1])[0].extras["marks"]
    assert marks == {"camera": "scene_camera", "boxes": {"red block": [15, 25, 35, 995]}, "trace": []}
    assert [config.coordinate(v) for v in marks["boxes"]["red block"]] == [1, 2, 3, 99]
    assert "marks" not in Policy(Echo(), PROCESSOR, think=("subtask",)).infer(OBSERVATIONS[:1])[0].extras


def test_wrong_use_is_refused() -> None:
    policy = Policy(Echo(), PROCESSOR)
    assert policy.infer([]) == []
    with pytest.raises(ValueError, match="1 observations came with 2 seeds"):
        policy.infer(OBSERVATIONS[:1], seeds=[1, 2])
    with pytest.raises(ValueError, match="cannot think 'action'"):
        Policy(Echo(), PROCESSOR, think=("action",))
    with pytest.raises(ValueError, match="choose 'flow' or 'tokens'"):
        Policy(Echo(), PROCESSOR, actions_from="thoughts")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give at least 0, or None"):
        Policy(Echo(), PROCESSOR, think_seconds=-1.0)
    with pytest.raises(ValueError, match="at most 3 tokens cannot be well-formed, which takes 6"):
        Policy(Echo(), PROCESSOR, think=("box",), max_new_tokens=3)
    behind = dataclasses.replace(PROCESSOR.config, level_order=("action", "subtask", "box", "trajectory"))
    acting_first = Processor(behind, PROCESSOR.embodiments, PROCESSOR.statistics, PROCESSOR.tokenizer)
    with pytest.raises(ValueError, match="puts 'box' behind the action tokens"):
        Policy(Echo(), acting_first, think=("box",), actions_from="tokens")
    with pytest.raises(ValueError, match="NaN or infinite actions"):
        Policy(Echo(broken=True), PROCESSOR).infer(OBSERVATIONS[:1])
    with pytest.raises(ValueError, match="not made for this processor: horizon is 5, not 8"):
        Policy(dm0(horizon=5), PROCESSOR)
    small = dataclasses.replace(PROCESSOR.config, image_size=24)
    resizing = Processor(small, PROCESSOR.embodiments, PROCESSOR.statistics, PROCESSOR.tokenizer)
    with pytest.raises(ValueError, match="image_size is 16, not 24"):
        Policy(dm0(), resizing)
    with pytest.raises(ValueError, match="action_start_id is 9, not 2"):
        Policy(dm0(action_start_id=9), PROCESSOR)
    with pytest.raises(ValueError, match=r"llm\.vocab_size is 300, not 717"):
        Policy(dm0(**{"llm.vocab_size": 300}), PROCESSOR)
    with pytest.raises(ValueError, match="prompt is 'cogact', not 'plain'"):
        Policy(make_model("cogact", make_config("cogact")), PROCESSOR)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = Policy(dm0(), PROCESSOR, provenance={"recipe": "demo"}, think=("subtask",), think_every=4)
    return policy.save(tmp_path_factory.mktemp("run") / "last", {"steps": 3})


def test_a_setting_that_policies_do_not_have_is_refused(saved: Path) -> None:
    assert load_policy(saved, think_every=3).think_every == 3
    with pytest.raises(ValueError, match=r"no setting 'think_evry'\. Did you mean 'think_every'\?"):
        load_policy(saved, think_evry=3)


def test_a_saved_policy_acts_the_same(saved: Path) -> None:
    policy, original = load_policy(saved), Policy(dm0(), PROCESSOR, think=("subtask",))
    assert policy.provenance["recipe"] == "demo"
    assert policy.provenance["steps"] == 3
    assert (policy.think, policy.think_every) == (("subtask",), 4)
    a, b = (p.infer(OBSERVATIONS[:1], seeds=[1])[0] for p in (policy, original))
    np.testing.assert_array_equal(a.actions, b.actions)
    assert a.text == b.text


def test_the_folder_holds_what_the_design_says_and_nothing_else(saved: Path) -> None:
    files = {"config", "processor", "tokenizer", "embodiment", "provenance"}
    assert {p.name for p in saved.iterdir()} == {f"{f}.json" for f in files} | {"model.safetensors"}
    assert [p.name for p in saved.parent.iterdir()] == ["last"]
    assert json.loads((saved / "config.json").read_text())["model"] == "dm0"


def test_saving_never_overwrites_unasked_and_replaces_whole_folders(saved: Path, tmp_path: Path) -> None:
    policy = load_policy(saved)
    folder = policy.save(tmp_path / "a" / "checkpoint")
    (folder / "left-over").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        policy.save(folder)
    policy.save(folder, overwrite=True)
    assert not (folder / "left-over").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["checkpoint"]


def test_a_full_disk_leaves_nothing_half_written(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    policy = load_policy(saved)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("visuomotor.policy.save_model", full)
    with pytest.raises(OSError, match=r"could not be written.*No space left.*Free some space"):
        policy.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_another_process_writes_is_not_saved_into(saved: Path, tmp_path: Path, overwrite: bool) -> None:
    policy, target = load_policy(saved), copied(saved, tmp_path / "target")
    before = snapshot(target)
    with holding(target, beside=True) as holder, pytest.raises(FolderInUse, match=f"process {holder.pid}"):
        policy.save(target, overwrite=overwrite)
    leave_foreign_lock(tmp_path / ".target.lock")
    with pytest.raises(FolderInUse, match="host elsewhere"):
        policy.save(target, overwrite=overwrite)
    assert snapshot(target) == before
    policy.save(target, overwrite=True, break_lock=True)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def copied(saved: Path, to: Path) -> Path:
    to.mkdir()
    for path in saved.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize(
    "name", ["config.json", "provenance.json", "processor.json", "tokenizer.json", "model.safetensors"]
)
def test_missing_and_truncated_files_are_named(saved: Path, tmp_path: Path, name: str) -> None:
    folder = copied(saved, tmp_path / "copy")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=name):
        load_policy(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"not a whole checkpoint: {name} missing"):
        load_policy(folder)


def test_weights_of_another_size_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["config"]["llm"]["mlp_width"] += 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        load_policy(folder)


def test_another_robot_is_refused_naming_both(saved: Path) -> None:
    other = dataclasses.replace(embodiment(name="other"), control_hz=50.0)
    with pytest.raises(ValueError, match="The robot is for embodiment 'other' but checkpoint"):
        load_policy(saved, embodiment=other)
    assert load_policy(saved, embodiment=embodiment()).embodiment.name == "arm"


def test_of_several_samples_the_medoid_is_the_answer() -> None:
    chunks = Policy(Echo(), PROCESSOR, num_samples=5).infer(OBSERVATIONS[:2], seeds=[7, 8])
    for chunk, seed, observation in zip(chunks, (7, 8), OBSERVATIONS, strict=False):
        generator = torch.Generator().manual_seed(seed)
        drawn = np.stack([torch.randn(8, 8, generator=generator).numpy() for _ in range(5)])
        chosen = drawn[medoid(drawn[..., :6])]
        np.testing.assert_array_equal(chunk.actions, PROCESSOR.robot_actions(chosen, observation.state))
    with pytest.raises(ValueError, match="num_samples is 3"):
        Policy(dm0(), PROCESSOR, num_samples=3, actions_from="tokens")


@pytest.mark.parametrize(
    "setting", [{"num_samples": 0}, {"think_every": 0}, {"steps": "abc"}, {"think_seconds": "x"}, {"think_seconds": -1}]
)
def test_settings_that_are_no_such_number_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is .*; give"):
        Policy(dm0(), PROCESSOR, **setting)


@pytest.mark.parametrize("kind", ["guided", "identity", "prefix"])
def test_a_chunk_goes_on_from_the_one_that_runs(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(dm0(), PROCESSOR, num_samples=2, steps=10)
    before = policy.infer(OBSERVATIONS[:1], seeds=[4])[0].actions
    request = ChunkRequest(previous=before[3:], delay=2, guidance=kind)
    free, tied = policy.infer([OBSERVATIONS[0]] * 2, seeds=[1, 1], requests=[None, request])
    alone = policy.infer(OBSERVATIONS[:1], seeds=[1])[0]
    np.testing.assert_allclose(free.actions, alone.actions, atol=1e-5)  # whoever shares the call
    scale = np.ptp(before, axis=0) + 1e-3
    miss, found = (np.abs((c.actions[:2] - before[3:5]) / scale).mean() for c in (free, tied))
    assert found < 0.6 * miss
    if kind == "prefix":
        np.testing.assert_allclose(tied.actions[:2], before[3:5], atol=1e-5)
    assert ("not trained with given actions" in caplog.text) == (kind == "prefix")


def test_guidance_that_a_model_does_not_have_is_refused() -> None:
    request = ChunkRequest(previous=np.zeros((3, 6)), delay=1)
    for policy in (Policy(Echo(), PROCESSOR), Policy(dm0(), PROCESSOR, actions_from="tokens")):
        assert policy.guidance == ()
        with pytest.raises(ValueError, match="asked for 'guided' guidance, but it has none"):
            policy.infer(OBSERVATIONS[:1], requests=[request])


def test_a_chunk_carries_the_time_of_its_observation() -> None:
    observation = dataclasses.replace(OBSERVATIONS[0], time=12.5)
    assert Policy(Echo(), PROCESSOR).infer([observation])[0].time == 12.5
