"""Published folders of pi0 and pi0.5: openpi's, read and written, and LeRobot's, read.

openpi    config.json, model.safetensors, assets/ID/norm_stats.json
LeRobot   config.json with the policy's type, model.safetensors, policy_preprocessor.json and its statistics
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from visuomotor.atomic import whole_folder
from visuomotor.contract import Embodiment
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.locks import FolderLock
from visuomotor.models.assign import Precision, require_equal
from visuomotor.models.files import read_json, read_safetensors
from visuomotor.models.hub import TOKENIZER_FILES, find_weights
from visuomotor.models.pi0.checkpoint import load, published_tensors, written_tensors
from visuomotor.models.pi0.model import Pi0
from visuomotor.models.published_numbers import lerobot_numbers, openpi_numbers, write_openpi_numbers
from visuomotor.models.report import TensorReport
from visuomotor.models.spec import CheckpointAdapter, PublishedPolicy
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["ADAPTER", "read_policy", "write_policy"]

TYPES = {"pi0": "concatenated", "pi05": "adaptive"}  # LeRobot's names of the policies
# openpi's names of widths, MLP widths, layers and head widths.
VARIANTS = {(2048, 16384, 18, 256): "gemma_2b", (1024, 4096, 18, 256): "gemma_300m", (64, 128, 4, 16): "dummy"}


def recognise(folder: Path) -> bool:
    """Whether the folder holds a pi0 or pi0.5 of openpi or LeRobot."""
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    return "paligemma_variant" in config or config.get("type") in TYPES


def read_policy(
    folder: Path,
    robot: Embodiment,
    *,
    precision: Precision = "file",
    normalization: Literal["quantile", "mean_std"] | None = None,
    tokenizer: str | None = None,
    statistics: str | None = None,
    state: Literal["token", "text", "none"] | None = None,
) -> PublishedPolicy:
    """A published folder as model and processor.

    normalization: None takes LeRobot's own, else z-scores for pi0 and quantiles for pi0.5.
    tokenizer: a folder with PaliGemma's tokenizer.json, where this one has none; statistics: openpi's asset.
    state: "none" for a pi0.5 whose texts name no state (openpi's discrete_state_input=False).

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file is damaged, or does not fit the model or the robot.
    """
    config = read_json(folder / "config.json")
    if tokenizer is None and not (folder / "tokenizer.json").exists():
        raise ValueError(f"{folder} has no tokenizer.json: --tokenizer FOLDER with PaliGemma's.")
    source = find_weights(tokenizer or str(folder), TOKENIZER_FILES, option="--tokenizer")
    words = TextTokenizer.load(source / "tokenizer.json")
    tensors, ignored = published_tensors(dict(read_safetensors(folder, "model*.safetensors")))
    dummy = config.get("paligemma_variant") == "dummy"
    known = {
        "horizon": config.get("action_horizon", config.get("chunk_size", 50)), "llm.head_dim": 16 if dummy else 256,
        "pad_id": words.pad_id, "newline_id": words.newline_id, "action_start_id": words.action_start,
        "action_token_count": words.action_count,
        **({} if state is None else {"state": state}),
    }  # fmt: skip
    model, report = load(tensors, precision, known, ignored)
    adaptive = model.config.time == "adaptive"
    if TYPES.get(config.get("type", ""), model.config.time) != model.config.time:
        raise ValueError(f"{folder / 'config.json'} says {config['type']!r}, but the tensors are of the other kind.")
    if "type" in config:
        numbers, relative = lerobot_numbers(folder), config.get("use_relative_actions", False)
    else:
        numbers, relative = openpi_numbers(folder, "quantile" if adaptive else "mean_std", statistics), True
    if normalization is not None:
        numbers = replace(numbers, methods=dict.fromkeys(numbers.methods, normalization))
    settings = ProcessorConfig(
        horizon=model.config.horizon,
        action_width=model.config.action_dim,
        state_width=model.config.state_dim,
        image_roles=robot.roles,
        image_size=None,  # the model fits images into a square itself, on black
        levels={},
        prompt=model.config.prompt,
        max_text=config.get("tokenizer_max_length", 200 if adaptive else 48),
        action_reference="chunk_start" if relative else "embodiment",
        wrap_angles=False,
        near_constant=0.0,
    )
    processor = Processor(settings, [numbers.normalised(robot)], [numbers.statistics(robot)], words)
    return PublishedPolicy(model=model, processor=processor, config=config, summary=report.summary())


def write_policy(model: Pi0, processor: Processor, folder: Path) -> TensorReport:
    """Write a new folder in openpi's layout, with the tokenizer beside it.

    Raises:
        FileExistsError: the folder exists. ValueError: openpi cannot run this model.
    """
    config, robot, text = model.config, processor.embodiments[0], processor.config
    towers = [replace(tower, vocab_size=None) for tower in (config.llm, config.head.decoder)]
    names = [VARIANTS.get((t.width, t.mlp_width, t.layers, t.head_dim)) for t in towers]
    adaptive = config.time == "adaptive"
    said = {
        "a variant of openpi for both decoders": (None not in names, True),
        "llm.convolution": (config.llm.convolution, 0),
        "state": (config.state == "token", not adaptive),
        "templates": (text.templates, "none"),
        "tags": (text.tags, False),
        "the number of embodiments": (len(processor.embodiments), 1),
        "normalisation": (
            {component.normalization for component in (*robot.state, *robot.action)},
            {"quantile" if adaptive else "mean_std"},
        ),
    }
    require_equal(said, "openpi's layout cannot hold this policy")
    tensors = written_tensors(model)
    described = {
        "action_dim": config.action_dim, "action_horizon": config.horizon, "paligemma_variant": names[0],
        "action_expert_variant": names[1], "precision": str(model.backbone.llm.matrix_dtype).removeprefix("torch."),
    }  # fmt: skip
    with FolderLock(folder, beside=True, nested=True):
        if folder.exists():
            raise FileExistsError(f"{folder} exists already; choose another folder.")
        with whole_folder(folder) as partial:
            save_file(tensors, str(partial / "model.safetensors"), metadata={"format": "pt"})
            (partial / "config.json").write_text(json.dumps(described, indent=2) + "\n")
            write_openpi_numbers(partial, robot.name, processor.statistics[0])
            processor.tokenizer.save(partial / "tokenizer.json")
    return TensorReport(loaded=tuple(tensors))


ADAPTER = CheckpointAdapter(
    contents="openpi's config.json, model.safetensors, assets; or LeRobot's folder of a pi0 or pi05",
    recognise=recognise,
    read=read_policy,
    write=write_policy,
)
