"""docs/robochallenge.md runs, and its tables are those of the code."""

import re
from pathlib import Path

from tests.docs.guide import DOCS, follow
from visuomotor.serving.robochallenge.conventions import CAMERAS
from visuomotor.serving.robochallenge.mock import FAULTS

GUIDE = DOCS / "robochallenge.md"


def test_the_guide_runs(tmp_path: Path) -> None:
    follow(GUIDE, tmp_path)
    assert not list(tmp_path.glob("visuomotor-mock-*")), "the mock's hostile pickle was run"


def test_its_tables_are_complete() -> None:
    text = GUIDE.read_text()
    named = set(re.findall(r"`([\w:]+)`", text))
    assert {fault for faults in FAULTS.values() for fault in faults} <= named
    assert set(FAULTS) <= named
    assert {camera for robots in CAMERAS.values() for cameras in robots.values() for camera in cameras} <= named
