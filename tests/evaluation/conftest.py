"""The fake world under its name, importable in worker processes too: they inherit sys.path, and with it `tests`."""

import pytest

from visuomotor.simulation import interface


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(interface.WORLDS, "fake", "tests.evaluation.fake_world")
