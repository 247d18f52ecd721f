"""Models by name: `make_config("dm0", "nano", horizon=16)`, then `make_model("dm0", config)`."""

import importlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import visuomotor
from visuomotor.codec import decode, encode, update
from visuomotor.models.base import Cost, Model
from visuomotor.models.files import read_json
from visuomotor.models.names import NameTable
from visuomotor.spelling import did_you_mean

__all__ = [
    "Cost",
    "Model",
    "config_from_json",
    "config_to_json",
    "make_config",
    "make_model",
    "name_table",
    "read_checkpoint",
    "sampling_fields",
]

# Of config.json and model.safetensors. In the first one the fields of a model's parts were not nested, and up to the
# second one tensors had the names of published files.
FORMAT = 3
_MODELS = {
    "dm0": ("visuomotor.models.dm0", "DM0", "DM0Config"),
    "cogact": ("visuomotor.models.cogact", "CogACT", "CogACTConfig"),
    "damvla": ("visuomotor.models.damvla", "DAMVLA", "DAMVLAConfig"),
    "pi0": ("visuomotor.models.pi0", "Pi0", "Pi0Config"),
    "oft": ("visuomotor.models.oft", "OFT", "OFTConfig"),
    "dexvla": ("visuomotor.models.dexvla", "DexVLA", "DexVLAConfig"),
    "dexvla-expert": ("visuomotor.models.dexvla.expert", "DexVLAExpert", "DexVLAExpertConfig"),
}


def make_config(name: str, size: str = "nano", **overrides: Any) -> Any:
    """The configuration of `name` at a named size with some fields replaced: {"llm.layers": 4, "horizon": 16}.

    Raises:
        ValueError: an unknown name (with the nearest), or a value of another type.
    """
    module, _, _ = _find(name)
    if size not in module.SIZES:
        hint = did_you_mean(size, module.SIZES)
        raise ValueError(f"Model {name!r} has no size {size!r}.{hint} Known: {', '.join(module.SIZES)}.")
    return update(module.SIZES[size], overrides)


def make_model(name: str, config: Any) -> Model:
    """Build the model with fresh weights, on the current default device (`with torch.device("meta")` works)."""
    module, model_name, config_name = _find(name)
    if not isinstance(config, getattr(module, config_name)):
        raise TypeError(f"Model {name!r} takes a {config_name}, not a {type(config).__name__}; use make_config.")
    return getattr(module, model_name)(config)


def sampling_fields(name: str) -> tuple[str, ...]:
    """The fields of the configuration that a finished model may be given anew: they change only how it samples."""
    module, model_name, _ = _find(name)
    return getattr(module, model_name).sampling_fields


def config_to_json(name: str, config: Any) -> dict[str, Any]:
    """{"format", "visuomotor": version, "model": name, "config": {field: value}}; `config_from_json` reads it back."""
    _find(name)
    return {"format": FORMAT, "visuomotor": visuomotor.__version__, "model": name, "config": encode(config)}


def config_from_json(data: dict[str, Any]) -> tuple[str, Any]:
    """(name, configuration) of what `config_to_json` wrote, in this version or an earlier one.

    Raises:
        ValueError: a newer format, an unknown model or field, or a value of another type.
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
    module, _, config_name = _find(data["model"])
    if written == 1:
        return data["model"], module.first_format(decode(dict[str, Any], data["config"], "config"))
    return data["model"], decode(getattr(module, config_name), data["config"], "config")


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
    if data.get("format", 1) >= 3 or data.get("model") not in _MODELS:
        return tensors
    return name_table(data["model"]).own_names(tensors)


def name_table(name: str) -> NameTable:
    """Published names of a model's tensors; its own names where nothing is published."""
    return getattr(_find(name)[0], "NAMES", NameTable({}))


def _find(name: str) -> tuple[Any, str, str]:
    if name not in _MODELS:
        raise ValueError(f"There is no model {name!r}.{did_you_mean(name, _MODELS)} Known: {', '.join(_MODELS)}.")
    path, model, config = _MODELS[name]
    return importlib.import_module(path), model, config
