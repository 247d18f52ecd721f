"""Models by name: `make_config("dm0", "nano", horizon=16)`, then `make_model("dm0", config)`.

A name is one of `MODELS`, or a reference `FILE.py:NAME` to a ModelSpec in a user's own file.
"""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import visuomotor
from visuomotor.codec import decode, encode, update
from visuomotor.embodiment import Embodiment
from visuomotor.models.base import Model
from visuomotor.models.files import read_json
from visuomotor.models.spec import ModelSpec
from visuomotor.plugins import is_reference, load
from visuomotor.spelling import did_you_mean

__all__ = [
    "MODELS", "Model", "ModelSpec", "config_from_json", "config_to_json", "find_spec", "make_config", "make_model",
    "published_robots", "read_checkpoint", "spec_of",
]  # fmt: skip

# Of config.json and model.safetensors. In the first one the fields of a model's parts were not nested, and up to the
# second one tensors had the names of published files.
FORMAT = 3
# Modules whose `SPEC` describes the model.
MODELS = {
    "dm0": "visuomotor.models.dm0",
    "cogact": "visuomotor.models.cogact",
    "damvla": "visuomotor.models.damvla",
    "dexvla": "visuomotor.models.dexvla",
    "dexvla-expert": "visuomotor.models.dexvla.expert",
    "pi0": "visuomotor.models.pi0",
    "oft": "visuomotor.models.oft",
}
_loaded: dict[type, ModelSpec] = {}  # from users' files, by the type of their configurations


def find_spec(name: str) -> ModelSpec:
    """The specification of a model by its name, or by a reference to a user's own.

    Raises:
        ValueError: there is no such model; says the nearest. FileNotFoundError: the reference's file is missing.
    """
    if is_reference(name):
        return _named_by(name, load(name, ModelSpec, "a model"))
    if name not in MODELS:
        names = ", ".join(MODELS)
        raise ValueError(f"There is no model {name!r}.{did_you_mean(name, MODELS)} Known: {names}, or FILE.py:NAME.")
    return import_module(MODELS[name]).SPEC


def _named_by(reference: str, spec: ModelSpec) -> ModelSpec:
    """The specification under its reference, with an absolute path: checkpoints are read from other folders."""
    path, colon, name = reference.rpartition(":") if not reference.endswith(".py") else (reference, "", "")
    named = replace(spec, name=f"{Path(path).expanduser().resolve()}{colon}{name}")
    existing = spec_of(next(iter(spec.presets.values())))
    if existing is not None and replace(existing, name=named.name) != named:
        raise ValueError(
            f"{reference} is configured by {spec.config.__name__}, as {existing.name!r} is, but a configuration's type "
            f"tells the model; derive a type of its own: class MyConfig({spec.config.__name__})."
        )
    return _loaded.setdefault(spec.config, named)


def spec_of(config: Any) -> ModelSpec | None:
    """The specification whose configurations are of this type; None for a model that nobody has named yet."""
    specs = (_loaded.get(type(config)), *(find_spec(name) for name in MODELS))
    return next((spec for spec in specs if spec is not None and type(config) is spec.config), None)


def published_robots() -> dict[str, Embodiment]:
    """{name: robot} of the published checkpoints of all models."""
    return {name: robot for model in MODELS for name, robot in find_spec(model).robots.items()}


def make_config(name: str, size: str = "nano", **overrides: Any) -> Any:
    """The configuration of `name` at a named size with some fields replaced: {"llm.layers": 4, "horizon": 16}.

    Raises:
        ValueError: an unknown name (with the nearest), or a value of another type.
    """
    presets = find_spec(name).presets
    if size not in presets:
        hint = did_you_mean(size, presets)
        raise ValueError(f"Model {name!r} has no size {size!r}.{hint} Known: {', '.join(presets)}.")
    return update(presets[size], overrides)


def make_model(name: str, config: Any) -> Model:
    """Build the model with fresh weights, on the current default device (`with torch.device("meta")` works)."""
    spec = find_spec(name)
    if type(config) is not spec.config:
        raise TypeError(
            f"Model {name!r} takes a {spec.config.__name__}, not a {type(config).__name__}; use make_config."
        )
    return spec.build(config)


def config_to_json(name: str, config: Any) -> dict[str, Any]:
    """{"format", "visuomotor": version, "model": name, "config": {field: value}}; `config_from_json` reads it back."""
    version, name = visuomotor.__version__, find_spec(name).name
    return {"format": FORMAT, "visuomotor": version, "model": name, "config": encode(config)}


def config_from_json(data: dict[str, Any]) -> tuple[str, Any]:
    """(name, configuration) of what `config_to_json` wrote, in this version or an earlier one.

    Raises:
        ValueError: a newer format, an unknown model or field, or a value of another type.
        FileNotFoundError: the model is from a file that is missing.
    """
    for key in ("model", "config"):
        if key not in data:
            raise ValueError(
                f"A model configuration holds 'model' and 'config', but {key!r} is missing in {list(data)}."
            )
    written = decode(int, data.get("format", 1), "format")
    if written > FORMAT:
        raise ValueError(
            f"The checkpoint has format {written}, but visuomotor {visuomotor.__version__} reads formats up to "
            f"{FORMAT}; visuomotor {data.get('visuomotor', '(the version that wrote it)')} or newer can read it."
        )
    try:
        spec = find_spec(decode(str, data["model"], "model"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} The checkpoint's model is defined there: copy the file to that place, or write its new place "
            f"into 'model' of the checkpoint's config.json."
        ) from error
    if written == 1:
        if spec.first_format is None:
            raise ValueError(f"Model {spec.name!r} has no first format, but the configuration says no 'format'.")
        return spec.name, spec.first_format(decode(dict[str, Any], data["config"], "config"))
    return spec.name, decode(spec.config, data["config"], "config")


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder's model.safetensors, of this version or an earlier one, under today's names.

    Raises:
        FileNotFoundError: the file is missing. ValueError: it is damaged.
    """
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing, so {folder} is not a checkpoint. Give a folder such as OUT/checkpoints/step-000500."
        ) from None
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is damaged or truncated ({error}). Copy the checkpoint again or take an earlier one."
        ) from error
    config = folder / "config.json"
    data = read_json(config) if config.exists() else {}
    if data.get("format", 1) >= 3 or data.get("model") not in MODELS:
        return tensors
    names = find_spec(data["model"]).names
    return tensors if names is None else names.own_names(tensors)
