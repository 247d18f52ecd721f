"""Against the plain reference on random weights under the published names."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.oft.conftest import QUERIES, STATS, Inputs, load
from tests.models.oft.reference import ACTIONS, HORIZON, VIEWS, ReferenceOFT, adapted, random_files
from visuomotor.models import make_config, make_model
from visuomotor.models.oft import read_folder, write_folder
from visuomotor.models.oft.checkpoint import FILM_NAMES, NAMES, written_tensors

Make = Callable[..., Inputs]
LM_HEAD, POOLING = "language_model.lm_head.weight", "vision_backbone.fused_featurizer.attn_pool.latent"
OUTPUT_LAYER, POOLING_SIZE = 32064 * 4096, 15_238_352  # 1152 latent, query, key, value, output, norm, MLP of SigLIP's


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-4)


def reference_actions(files: dict, inputs: Inputs, **options: Any) -> Tensor:
    return ReferenceOFT(files, **options).forward(*inputs.values())


@torch.no_grad()
@pytest.mark.parametrize("film", [False, True])
def test_actions_are_those_of_the_reference(film: bool, make_inputs: Make) -> None:
    files, inputs = random_files(film), make_inputs()
    expected = reference_actions(files, inputs)
    close(load(files)(**inputs), expected)
    assert expected.shape == (2, HORIZON, ACTIONS)
    # What the comparison would not see if the tensors hardly mattered.
    assert (reference_actions(files, inputs, causal=True) - expected).abs().max() > 0.1
    if film:
        assert (ReferenceOFT(random_files(False)).forward(*inputs.values()) - expected).abs().max() > 0.1


@torch.no_grad()
def test_the_epsilon_of_the_norms_is_not_that_of_llama(make_inputs: Make) -> None:
    files, inputs = random_files(), make_inputs()
    for name in ("language_model.model.embed_tokens.weight", "projector.fc3.weight", "projector.fc3.bias"):
        files["state"][name] *= 0.01  # where an epsilon matters
    for tensor in files["proprio_projector"].values():
        tensor *= 0.1
    expected = reference_actions(files, inputs)
    close(load(files)(**inputs), expected)
    assert (reference_actions(files, inputs, eps=1e-5) - expected).abs().max() > 1e-2


def test_gradients_are_those_of_the_reference(make_inputs: Make) -> None:
    files, inputs = random_files(True), make_inputs()
    actions = torch.randn(2, HORIZON, ACTIONS, generator=torch.Generator().manual_seed(2))
    model, reference = load(files), ReferenceOFT(files)
    reference.w = {name: tensor.clone().requires_grad_() for name, tensor in reference.w.items()}
    expected = (reference.forward(*inputs.values()) - actions).abs().mean()
    found = model.loss(**inputs, actions=actions)
    close(found, expected)
    expected.backward()
    found.backward()
    parameters = model.published_parameters()
    assert parameters.keys() | {LM_HEAD, POOLING} == {n for n in reference.w if not superseded(n)} | {POOLING}
    for name, parameter in parameters.items():
        own, other = parameter.grad, reference.w[name].grad
        assert (own is None or not own.any()) == (other is None or not other.any()), name
        if own is not None and other is not None:
            close(own, other, 1e-5)


def superseded(name: str) -> bool:
    """The towers without FiLM, whose place those of the component file take."""
    return (
        name.startswith("vision_backbone.")
        and ".blocks." in name
        and not any(part in name for part in (".block.", ".scale.", ".shift."))
    )


@torch.no_grad()
def test_what_stands_in_the_slots_and_behind_the_text_does_not_matter(make_inputs: Make) -> None:
    model, inputs = load(random_files()), make_inputs()
    expected = model(**inputs)
    ids = inputs["input_ids"].where(~inputs["action_slots"] & inputs["attention_mask"].bool(), 7)
    close(model(**{**inputs, "input_ids": ids}), expected, 0)
    end = inputs["input_ids"].where(inputs["input_ids"] != 2, 3)  # `</s>` stands behind the queries, which see it
    assert (model(**{**inputs, "input_ids": end}) - expected).abs().max() > 1e-2
    alone = {name: tensor[1:] for name, tensor in inputs.items()}
    for name in ("input_ids", "attention_mask", "action_slots"):
        alone[name] = alone[name][:, :-2]
    close(model(**alone), expected[1:], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("ends", [False, True])
def test_acting_completes_the_prompt_and_speaks_in_robot_units(ends: bool, make_inputs: Make) -> None:
    files, inputs = random_files(), make_inputs((6, 6))
    inputs["input_ids"][:, 5] = 29871
    model = load(files)
    n = reference_actions(files, inputs)
    expected = torch.stack([(n[..., 0] + 1) / 2 * (4 + 1e-8) - 1, n[..., 1]], dim=-1)
    prompt = inputs["input_ids"][:, : 6 if ends else 5]
    close(model.act(prompt, inputs["pixel_values"], inputs["proprio"]), expected)
    model.action_stats = {"min": [-1.0, 2.0], "max": [3.0, 2.5]}  # as ALOHA's
    low_high = torch.stack([expected[..., 0], (n[..., 1] + 1) / 2 * (0.5 + 1e-8) + 2], dim=-1)
    close(model.act(prompt, inputs["pixel_values"], inputs["proprio"]), low_high)


def test_a_constant_dimension_keeps_the_published_margin() -> None:
    model = load(random_files())
    model.action_stats = {"q01": [0.0, 0.0], "q99": [0.0, 0.0]}
    found = model.robot_actions(torch.tensor([[[1.0, -0.5]]]))
    torch.testing.assert_close(found, torch.tensor([[[1e-8, 0.25e-8]]]), atol=0, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("rank", [4, 20])
def test_adapters_of_the_towers_are_merged(rank: int, make_inputs: Make) -> None:
    files, inputs = random_files(True), make_inputs()
    apart, merged = adapted(files["vision_backbone"], rank)
    assert any("patch_embed.proj.lora_A" in name for name in apart)
    expected = reference_actions({**files, "vision_backbone": merged}, inputs)
    close(load({**files, "vision_backbone": apart})(**inputs), expected)
    assert (reference_actions(files, inputs) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("film", [False, True])
def test_names_go_both_ways(film: bool) -> None:
    files = random_files(film)
    model = load(files).oft
    names = FILM_NAMES if film else NAMES
    for name in model.state_dict():
        assert names.own(names.published(name)) == name
    written = written_tensors(model)
    expected = {"model": files.pop("state"), **files}
    for name in (LM_HEAD, POOLING):
        del expected["model"][name]
    assert {part: sorted(tensors) for part, tensors in written.items()} == {p: sorted(t) for p, t in expected.items()}
    for part, tensors in written.items():
        for name, tensor in tensors.items():
            if not (film and part == "model" and name.startswith("vision_backbone.")):  # superseded when it was read
                assert torch.equal(tensor, expected[part][name]), name


@torch.no_grad()
@pytest.mark.parametrize("film", [False, True])
def test_a_folder_is_read_and_written(film: bool, make_inputs: Make, tmp_path: Path) -> None:
    files, inputs, base = random_files(film), make_inputs(), tmp_path / "base"
    base.mkdir()
    save_file({name: tensor.bfloat16() for name, tensor in files["state"].items()}, base / "model.safetensors")
    for part in (part for part in files if part != "state"):
        for step, scale in ((50, 0.0), (150, 1.0)):  # the later step counts
            torch.save(
                {n: (scale * t).bfloat16() for n, t in files[part].items()}, base / f"{part}--{step}_checkpoint.pt"
            )
    statistics = {"libero_goal_no_noops": {"action": STATS, "proprio": {"q01": [0.0]}}}
    (base / "dataset_statistics.json").write_text(json.dumps(statistics))
    (base / "config.json").write_text('{"model_type": "openvla"}')
    shape = {"horizon": HORIZON, "images": VIEWS, "num_heads": 4, "vision_heads": 2}
    first = read_folder(base, "libero_goal", precision="float32", **shape)
    rounded = {p: {n: t.bfloat16().float() for n, t in tensors.items()} for p, tensors in files.items()}
    close(first.published(**inputs), reference_actions(rounded, inputs))
    assert set(first.report.ignored) == ({LM_HEAD} if film else {LM_HEAD, POOLING})
    write_folder(first.published.oft, tmp_path / "again", statistics, step=7, base=base)
    again = read_folder(tmp_path / "again", precision="float32", **shape)
    close(again.published(**inputs), first.published(**inputs), 0)
    assert {LM_HEAD} <= set(again.report.ignored)
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == {"model_type": "openvla"}
    with pytest.raises(ValueError, match=r"none of 'libero_spatial'.*libero_goal_no_noops"):
        read_folder(base, "libero_spatial", **shape)


def test_the_reference_types_are_bfloat16() -> None:
    model = load(random_files(), precision="reference")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_bfloat16_acts_nearly_as_float32(make_inputs: Make) -> None:
    files, inputs = random_files(), make_inputs((6, 6))
    prompt = inputs["input_ids"][:, :6]
    exact, rough = (
        load(files, precision=p).act(prompt, inputs["pixel_values"], inputs["proprio"])
        for p in ("float32", "reference")
    )
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.3


def test_what_does_not_fit_is_refused(make_inputs: Make) -> None:
    files, inputs = random_files(), make_inputs()
    model = load(files)
    with pytest.raises(ValueError, match="not one that regresses actions"):
        load({"state": files["state"]})
    noisy = {f"module.noise_predictor.mlp_resnet.{n}": t for n, t in files["action_head"].items()}
    with pytest.raises(ValueError, match="not one that regresses actions"):
        load({**files, "action_head": noisy})
    with pytest.raises(ValueError, match="diffusion variant"):
        load(files, noisy_action_projector={})
    with pytest.raises(ValueError, match=r"fc1\.weight"):
        load(files, action_dim=3)
    with pytest.raises(ValueError, match=r"proprio .* must be given"):
        model(**{**inputs, "proprio": None})
    slots = inputs["action_slots"].clone()
    slots[1, 4] = False
    with pytest.raises(ValueError, match=rf"\[{QUERIES}, {QUERIES - 1}\] action slots.*takes {QUERIES}"):
        model(**{**inputs, "action_slots": slots})
    blind = load({name: part for name, part in files.items() if name != "proprio_projector"})
    with pytest.raises(ValueError, match="proprio must be None"):
        blind(**inputs)
    missing = {n: t for n, t in files["state"].items() if not n.endswith("projector.fc3.bias")}
    with pytest.raises(ValueError, match=r"missing.*projector\.fc3\.bias"):
        load({**files, "state": missing})


@pytest.mark.parametrize(
    ("size", "film", "head", "state"),
    [
        ("base", 0, 151_117_831, 8 * 4096 + 4096),
        ("base-aloha", 456_241_920, None, 14 * 4096 + 4096),
        ("base-bridge", 0, 151_117_831, 7 * 4096 + 4096),
    ],
)
def test_published_sizes(size: str, film: int, head: int | None, state: int) -> None:
    config = make_config("oft", size)
    with torch.device("meta"):
        model = make_model("oft", config)
    parts = {name: sum(p.numel() for p in part) for name, part in model.parts().items()}
    vlm = sum(parts[name] for name in ("vision", "projector", "llm", "embed"))
    assert vlm == 7_541_237_184 - OUTPUT_LAYER - POOLING_SIZE + film
    assert head is None or parts["action_head"] == head
    assert parts["proprio_projector"] == state + 4096 * 4096 + 4096
    assert config.llm.norm_eps == 1e-6
    assert replace(config.llm, norm_eps=1e-5) == make_config("cogact", "base").llm
