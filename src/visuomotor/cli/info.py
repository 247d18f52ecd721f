"""`visuomotor info`: versions, devices, what is installed."""

import json
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from visuomotor import __version__
from visuomotor.cli.console import console, parse

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "av", "numpy", "scipy", "statsmodels",
    "gymnasium", "mujoco", "metaworld",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Versions, devices, what is installed."""

    json: bool = False
    """Print JSON instead of lines."""


def collect_info() -> dict[str, Any]:
    """Versions and devices as plain values."""
    import torch

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "visuomotor": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "mujoco_gl": os.environ.get("MUJOCO_GL", "egl"),
        "compiler": shutil.which("g++") or shutil.which("clang++"),
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "packages": versions,
    }


def run(arguments: list[str]) -> int:
    options = parse("info", Options, arguments)
    info = collect_info()
    if options.json:
        print(json.dumps(info, indent=2))
        return 0
    for key, value in info.items():
        if key == "packages":
            for name, version in value.items():
                console.print(f"  {name:<14} {version or 'not installed'}")
        else:
            console.print(f"{key:<14} {value if value not in (None, []) else 'none'}")
    return 0
