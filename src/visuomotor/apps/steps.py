"""Steps of a longer job: a step whose inputs have the same hash is reused, an interrupted one is resumed."""

import hashlib
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import visuomotor
from visuomotor.codec import encode

State = Literal["done", "interrupted", "new"]
STEPS_FILE = "steps.json"


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
    return hashlib.sha256(json.dumps(encode(inputs), sort_keys=True).encode()).hexdigest()


class Steps:
    """Remembers in `folder`/steps.json which step was started and finished with which inputs, and its seconds.

    An entry is {"inputs": hash, "done": bool, "seconds": wall time of all tries so far that were not killed}.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STEPS_FILE
        folder.mkdir(parents=True, exist_ok=True)
        self.known = self.read(folder)

    @staticmethod
    def read(folder: Path) -> dict[str, dict[str, Any]]:
        """The entries by step; empty without a file, ValueError for one that cannot be read."""
        path = folder / STEPS_FILE
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}). Remove it and choose another folder.") from error

    def state(self, name: str, inputs: str, output: Path) -> State:
        """Whether the step is done, was interrupted with the same inputs, or is to be done anew."""
        entry = self.known.get(name, {})
        if entry.get("inputs") != inputs:
            return "new"
        return "done" if entry.get("done") and output.exists() else "interrupted"

    def run(self, name: str, inputs: str, output: Path, work: Callable[[bool, bool], Any]) -> State:
        """Do `work(resume, overwrite)` unless it is done already; returns the state that was found.

        Raises FileExistsError when `output` is there but no step made it: it is not ours to overwrite.
        """
        state = self.state(name, inputs, output)
        if state == "done":
            return state
        if name not in self.known and output.exists():
            raise FileExistsError(f"{output} exists, and {self.path} does not know it. Choose another folder.")
        spent = self.seconds(name) if state == "interrupted" else 0.0
        self._write(name, {"inputs": inputs, "done": False, "seconds": spent})
        began, done = time.monotonic(), False
        try:
            work(state == "interrupted", state == "new")
            done = True
        finally:
            self._write(name, {"inputs": inputs, "done": done, "seconds": round(spent + time.monotonic() - began, 2)})
        return state

    def seconds(self, name: str) -> float:
        """What the step has taken so far."""
        return float(self.known.get(name, {}).get("seconds", 0.0))

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        self.known[name] = entry
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.known, indent=2) + "\n")
        partial.replace(self.path)
