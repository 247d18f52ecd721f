"""Statistics in published folders, and the normalisation that they are meant for: openpi's files and LeRobot's.

openpi    assets/ID/norm_stats.json; which normalisation it means is decided by the model
LeRobot   policy_preprocessor.json, which names the normalisation and a file of statistics
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file

from visuomotor.contract import Embodiment
from visuomotor.data.statistics import Statistics, VectorStatistics
from visuomotor.models.files import read_json

__all__ = ["Method", "Numbers", "lerobot_numbers", "openpi_numbers", "write_openpi_numbers"]

Method = Literal["quantile", "mean_std", "none"]
MODES: dict[str, Method] = {"QUANTILES": "quantile", "MEAN_STD": "mean_std", "IDENTITY": "none"}
READ = {"quantile": ("q01", "q99"), "mean_std": ("mean", "std"), "none": ()}
PREPROCESSOR = "policy_preprocessor.json"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Statistics by vector ("state", "action") and name ("mean", "std", "q01", "q99"), and their normalisations."""

    vectors: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Method]

    def normalised(self, robot: Embodiment) -> Embodiment:
        """The robot with these normalisations."""
        state, action = (self.methods[what] for what in ("state", "action"))
        return replace(
            robot,
            state=tuple(replace(component, normalization=state) for component in robot.state),
            action=tuple(replace(component, normalization=action) for component in robot.action),
        )

    def statistics(self, robot: Embodiment) -> Statistics:
        """Statistics of the robot's dimensions, which are the first of the published ones.

        Raises:
            ValueError: the normalisation reads values that are missing, or fewer than the robot has dimensions.
        """
        return Statistics(state=self._vector("state", robot.state_dim), action=self._vector("action", robot.action_dim))

    def _vector(self, what: str, dims: int) -> VectorStatistics:
        values: dict[str, tuple[float, ...]] = {}
        for name in ("mean", "std", "q01", "q99"):
            published = self.vectors[what].get(name) or ()
            if len(published) < dims and name in READ[self.methods[what]]:
                raise ValueError(
                    f"The robot has {dims} {what} dimensions, but the published statistics have {len(published)} "
                    f"values of {name!r}, which the normalisation {self.methods[what]!r} reads; name the robot that "
                    f"they belong to, or other statistics."
                )
            # Values that nothing reads may be missing.
            values[name] = tuple(float(x) for x in published[:dims]) if len(published) >= dims else (0.0,) * dims
        low, high = values["q01"], values["q99"]
        middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
        return VectorStatistics(**values, min=low, max=high, q10=low, q50=middle, q90=high, count=0)


def openpi_numbers(folder: Path, method: Method, asset: str | None = None) -> Numbers:
    """Numbers of openpi's folder; `asset` is its ID where there are several.

    Raises:
        ValueError: there are none, or several and none is named.
    """
    files = {str(p.parent.relative_to(folder / "assets")): p for p in (folder / "assets").rglob("norm_stats.json")}
    if len(files) == 1 and asset is None:
        asset = next(iter(files))
    if asset not in files:
        raise ValueError(
            f"{folder} has statistics {sorted(files)} (assets/NAME/norm_stats.json), but {asset!r} is wanted; name one "
            f"with --statistics, and copy the folder assets if it is missing."
        )
    data = read_json(files[asset])
    data = data.get("norm_stats", data)
    vectors = {"state": data.get("state") or {}, "action": data.get("actions") or {}}
    return Numbers(vectors=vectors, methods=dict.fromkeys(vectors, method))


def write_openpi_numbers(folder: Path, asset: str, statistics: Statistics) -> None:
    """Write openpi's norm_stats.json of an asset."""
    names, vectors = ("mean", "std", "q01", "q99"), {"state": statistics.state, "actions": statistics.action}
    data = {what: {name: list(getattr(v, name)) for name in names} for what, v in vectors.items()}
    path = folder / "assets" / asset / "norm_stats.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"norm_stats": data}, indent=2) + "\n")


def lerobot_numbers(folder: Path) -> Numbers:
    """Numbers of LeRobot's folder, with the normalisations that its file says.

    Raises:
        FileNotFoundError: a file is missing. ValueError: it has no statistics, or a normalisation unknown here.
    """
    path = folder / PREPROCESSOR
    steps = read_json(path).get("steps", [])
    step = next((step for step in steps if step.get("registry_name") == "normalizer_processor"), {})
    if "state_file" not in step:
        raise ValueError(f"{path} has no step 'normalizer_processor' with a state_file; copy the folder again.")
    if not (folder / step["state_file"]).exists():
        raise FileNotFoundError(f"{folder / step['state_file']} is missing; copy the folder again, whole.")
    vectors: dict[str, dict[str, Any]] = {"state": {}, "action": {}}
    for name, tensor in load_file(folder / step["state_file"]).items():
        feature, _, kind = name.rpartition(".")
        if feature in ("observation.state", "action"):
            vectors[feature.rpartition(".")[2]][kind] = tensor.tolist()
    modes = step.get("config", {}).get("norm_map", {})
    wanted = {what: modes.get(what.upper(), "IDENTITY") for what in vectors}
    for mode in wanted.values():
        if mode not in MODES:
            raise ValueError(f"{path} normalises by {mode!r}, but only {sorted(MODES)} can be read.")
    return Numbers(vectors=vectors, methods={what: MODES[mode] for what, mode in wanted.items()})
