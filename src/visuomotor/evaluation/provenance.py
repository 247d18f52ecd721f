"""What an evaluation was run with, so that a number can be traced and repeated."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

from visuomotor.codec import encode
from visuomotor.contract import EvalPlan
from visuomotor.plugins import file_of, is_reference
from visuomotor.session import PolicyLike
from visuomotor.simulation.interface import Environment
from visuomotor.versions import commit, installed

PACKAGES = ("mujoco", "metaworld", "gymnasium", "torch", "numpy")
SUCCESS = "first success: an episode counts as soon as its scenario's own task is achieved once within max_steps"


def describe_run(policy: PolicyLike, path: Path | None, plan: EvalPlan, environment: Environment) -> dict[str, Any]:
    """Checkpoint with hash, code and environment versions, rendering, seeds, limits and cameras; all JSON."""
    return {
        "checkpoint": None if path is None else str(path),
        "checkpoint_hash": None if path is None else checkpoint_hash(Path(path)),
        "checkpoint_provenance": encode(getattr(policy, "provenance", {})),
        "code_version": code_version(),
        "environment": plan.environment,
        "versions": installed(PACKAGES),
        "embodiment": environment.embodiment.name,
        "control_hz": environment.embodiment.control_hz,
        "cameras": [f"{c.name} ({c.role}) {c.width}x{c.height}" for c in environment.embodiment.cameras],
        "render_quality": environment.render_quality,
        "max_steps": plan.max_steps or "the environment's own, by task",
        "success": SUCCESS,
        "plan": encode(plan),
    }


def checkpoint_hash(path: Path) -> str:
    """SHA-256 over names and contents of a checkpoint folder's files, or of one file (also FILE.py:NAME), 16 digits."""
    digest = hashlib.sha256()
    origin = file_of(str(path)) if is_reference(str(path)) else path
    files = [origin] if origin.is_file() else origin.iterdir()
    for file in sorted(f for f in files if f.is_file() and f.name != "provenance.json"):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def code_version() -> str:
    """The package's version, with the commit when it runs from a checkout."""
    version, found = metadata.version("visuomotor"), commit()
    return f"{version}+{found}" if found else version
