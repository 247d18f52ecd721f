"""The fake world under its name, importable in spawned workers too, and policies for it."""

import sys
from pathlib import Path

import pytest

from visuomotor.simulation import interface

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # spawned processes inherit sys.path
    sys.path.insert(0, HERE)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(interface.WORLDS, "fake", "fake_world")
