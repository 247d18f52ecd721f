import dataclasses

import numpy as np
import pytest
import torch

from tests.data.fakes import CORPUS, SENTENCES, FakeDataset, embodiment
from visuomotor.contract import Batch
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.embodiment import Embodiment
from visuomotor.models import config_from_json, config_to_json, make_config, make_model
from visuomotor.models.dexvla.expert import DexVLAExpert
from visuomotor.policy import Policy, load_policy

ROBOTS = {"head.embodiments": ("arm", "sawyer"), "head.action_dims": (6, 3), "head.state_dims": (6, 4)}


def make(**options: object) -> DexVLAExpert:
    torch.manual_seed(0)
    values = {"head.horizon": 4, "head.width": 16, "head.depth": 2, "head.heads": 2, "head.cond_dim": 12, **options}
    model = make_model("dexvla-expert", make_config("dexvla-expert", **values))
    assert isinstance(model, DexVLAExpert)
    return model


def perturbed(model: DexVLAExpert) -> DexVLAExpert:
    """No tensor is zero, as after some training: fresh FiLM and adaLN would hide what they pass on."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def make_batch(embodiments: tuple[int, ...] = (0, 1, 0), views: tuple[bool, ...] = (True, True)) -> Batch:
    torch.manual_seed(2)
    size = len(embodiments)
    text = torch.zeros(size, 8, dtype=torch.int64)
    roles = [role for role, there in zip(("scene", "wrist"), views, strict=True) if there]
    return Batch(
        images={role: torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8) for role in roles},
        image_valid=torch.tensor([views] * size),
        text_ids=text,
        text_valid=text == 0,
        text_kind=text,
        text_loss=text == 1,
        state=torch.randn(size, 8),
        actions=torch.rand(size, 4, 8) * 2 - 1,
        action_valid=torch.ones(size, 4, 8, dtype=torch.bool),
        embodiment=torch.tensor(embodiments),
        source=torch.zeros(size, dtype=torch.int64),
        labels={"sentence": torch.randn(size, 256)},
    )


def row(batch: Batch, index: int) -> Batch:
    return batch.map(lambda tensor: tensor[index : index + 1])


def test_a_mixed_batch_is_what_each_robot_gets_alone() -> None:
    model, batch = perturbed(make(**ROBOTS)).eval(), make_batch()
    noise, time = torch.randn(3, 2, 4, 8), torch.randint(100, (3, 2))
    mixed = model.loss(batch, noise=noise, time=time).terms["diffusion"]
    alone = [
        model.loss(row(batch, i), noise=noise[i : i + 1], time=time[i : i + 1]).terms["diffusion"] for i in (0, 1, 2)
    ]
    torch.testing.assert_close(mixed.sum, torch.stack([t.sum for t in alone]).sum())
    assert mixed.count == 2 * 4 * (6 + 3 + 6)


def test_gradients_of_one_robot_never_touch_anothers_layers() -> None:
    model = make(**ROBOTS)
    model.loss(make_batch((1, 1)), generator=torch.Generator().manual_seed(0)).total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    others = {n: g for n, g in gradients.items() if ".embodiments.arm." in n}
    assert others
    assert all(g is None for g in others.values())
    assert all(g is not None for n, g in gradients.items() if n not in others)


def test_everything_else_learns_and_parts_cover_the_model() -> None:
    model = perturbed(make(**ROBOTS))
    model.loss(make_batch()).total.backward()
    assert all(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.parameters())
    parts = model.parts()
    assert sorted(id(p) for own in parts.values() for p in own) == sorted(id(p) for p in model.parameters())
    assert parts.keys() == {"vision", "projector", "head"}


def test_sentence_camera_and_state_reach_the_condition_or_the_head() -> None:
    model, batch = perturbed(make(**ROBOTS)).eval(), make_batch()
    noise = torch.randn(3, 1, 4, 8)
    before = model.sample(batch, noise=noise).actions
    changes: list[Batch] = [dataclasses.replace(batch, state=batch.state + 1)]
    changes.append(dataclasses.replace(batch, labels={"sentence": -batch.labels["sentence"]}))
    for role in batch.images:
        changes.append(dataclasses.replace(batch, images={**batch.images, role: 255 - batch.images[role]}))
    for changed in changes:
        assert not torch.allclose(model.sample(changed, noise=noise).actions, before, atol=1e-5)


def test_fresh_film_hears_no_sentence() -> None:
    model, batch = make(**ROBOTS).eval(), make_batch()
    told = dataclasses.replace(batch, labels={"sentence": -batch.labels["sentence"]})
    assert torch.equal(model.encode(batch).cond, model.encode(told).cond)


def test_an_absent_camera_is_zeros_behind_its_encoder() -> None:
    model, batch = perturbed(make(**ROBOTS)).eval(), make_batch()
    scene = dataclasses.replace(
        batch, images={"scene": batch.images["scene"]}, image_valid=batch.image_valid * torch.tensor([True, False])
    )
    before = model.encode(scene).cond
    with torch.no_grad():
        model.obs_projector.weight[:, 128:] = 0.0
    torch.testing.assert_close(model.encode(batch).cond, before)


def test_denoise_is_the_head_and_sampling_follows_it() -> None:
    model, batch = perturbed(make(**ROBOTS)).eval(), make_batch()
    prefix, x, t = model.encode(batch), torch.randn(3, 2, 4, 8), torch.randint(100, (3, 2))
    for n in range(2):
        expected = model.noise_pred_net(x[:, n], t[:, n], prefix.cond, batch.state, batch.embodiment)
        torch.testing.assert_close(model.denoise(prefix, x, t)[:, n], expected)
    sampled = model.sample(batch, noise=x, steps=3).actions
    again = model.sample(row(batch, 1), noise=x[1:2, 1:], steps=3).actions
    torch.testing.assert_close(sampled[1:2, 1:], again, atol=1e-5, rtol=1e-5)
    assert bool((sampled.abs() <= 1).all())
    assert not sampled[1, :, :, 3:].any()
    drawn = [model.sample(batch, num_samples=2, generator=torch.Generator().manual_seed(7)).actions for _ in range(2)]
    assert drawn[0].shape == (3, 2, 4, 8)
    assert torch.equal(*drawn)


def test_refusals_say_what_to_do() -> None:
    model, batch = make(**ROBOTS), make_batch()
    for changed, message in (
        (dataclasses.replace(batch, labels={}), "processor.sentence"),
        (dataclasses.replace(batch, labels={"sentence": torch.zeros(3, 5)}), "one of width 5"),
        (dataclasses.replace(batch, actions=None, action_valid=None), "from actions alone"),
        (dataclasses.replace(batch, images={"left": batch.images["scene"]}), "images of 'left'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.loss(changed)
    with pytest.raises(ValueError, match="writes no text"):
        model.sample(batch, flow=False)
    with pytest.raises(ValueError, match="no encoder 'fifty'"):
        make(encoder="fifty")
    with pytest.raises(ValueError, match="head_per_embodiment is off"):
        make(head_per_embodiment=False, **ROBOTS)


def test_configuration_survives_json_and_the_paper_sizes_are_the_published_heads() -> None:
    config = make(**ROBOTS).config
    assert config_from_json(config_to_json("dexvla-expert", config)) == ("dexvla-expert", config)
    with torch.device("meta"):
        model = DexVLAExpert(make_config("dexvla-expert", "base"))
    parts = {name: sum(p.numel() for p in own) for name, own in model.parts().items()}
    assert parts["head"] == 955_861_518
    film = 2 * (768 + 1) * (256 + 512 + 1024 + 2048)
    norms_and_convolutions = 23_508_032
    assert parts["vision"] == 3 * (norms_and_convolutions + film)
    assert parts["projector"] == 1536 * (3 * 2048 + 1)


def robots() -> tuple[Embodiment, Embodiment]:
    arm = embodiment(32)
    sawyer = dataclasses.replace(
        embodiment(32, name="sawyer"), control_hz=40.0, state=arm.state[:2], action=arm.action[:1]
    )
    return arm, sawyer


def test_a_policy_of_two_robots_drives_each(tmp_path: object) -> None:
    datasets = [FakeDataset(seed=i, robot=robot, size=32) for i, robot in enumerate(robots())]
    config = ProcessorConfig(horizon=4, levels={}, sentence="hashed")
    processor = Processor.build(config, datasets, CORPUS)
    model = perturbed(make(**{**ROBOTS, "head.state_dims": (6, 5)}))
    Policy(model, processor).save(f"{tmp_path}/p")
    for robot, dataset, width in zip(robots(), datasets, (6, 3), strict=True):
        policy = load_policy(f"{tmp_path}/p", embodiment=robot)
        grasp, other = (policy.infer([dataset.observation(3, said)], seeds=[0])[0].actions for said in SENTENCES[:2])
        assert grasp.shape == (4, width)
        assert not np.allclose(grasp, other)
