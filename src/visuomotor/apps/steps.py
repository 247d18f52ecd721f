"""Steps of a longer job: a step whose inputs have the same hash is reused, an interrupted one is resumed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import visuomotor

State = Literal["done", "interrupted", "new"]


@cache
def source_digest() -> str:
    """A hash of the library's own source, so that results of other code are never reused."""
    root = Path(visuomotor.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def digest(*inputs: Any) -> str:
    """A hash of plain values and dataclasses."""

    def plain(value: Any) -> Any:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

    return hashlib.sha256(json.dumps(inputs, default=plain, sort_keys=True).encode()).hexdigest()


class Steps:
    """Remembers in `folder`/steps.json which step was started and finished with which inputs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "steps.json"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.known: dict[str, dict[str, Any]] = json.loads(self.path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            self.known = {}

    def state(self, name: str, inputs: str, output: Path) -> State:
        """Whether the step is done, was interrupted with the same inputs, or is to be done anew."""
        entry = self.known.get(name, {})
        if entry.get("inputs") != inputs:
            return "new"
        return "done" if entry.get("done") and output.exists() else "interrupted"

    def run(self, name: str, inputs: str, output: Path, work: Callable[[bool, bool], Any]) -> State:
        """Do `work(resume, overwrite)` unless it is done already; returns the state that was found."""
        state = self.state(name, inputs, output)
        if state == "done":
            return state
        self._write(name, {"inputs": inputs, "done": False})
        work(state == "interrupted", state == "new")
        self._write(name, {"inputs": inputs, "done": True})
        return state

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        self.known[name] = entry
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.known, indent=2) + "\n")
        partial.replace(self.path)
