"""docs/execution.md runs, and names every executor."""

from pathlib import Path

from visuomotor_client.executors import EXECUTORS

from tests.docs.guide import DOCS, follow
from visuomotor.evaluation.results import Results

GUIDE = DOCS / "execution.md"


def test_the_guide_runs(tmp_path: Path) -> None:
    results = Results.load(follow(GUIDE, tmp_path) / "runs" / "eval")
    assert results.run["plan"]["executor"] == "rtc"
    motion = results.conditions[0].motion
    assert motion is not None
    assert motion.stall_seconds >= 0.2  # in front of the first chunk


def test_every_executor_is_explained() -> None:
    text = GUIDE.read_text()
    assert [name for name in EXECUTORS if f"`{name}`" not in text] == []
