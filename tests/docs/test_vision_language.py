"""docs/vision-language.md runs, on a recording with boxes."""

import json
from pathlib import Path

import pytest

from tests.data.recording import annotated, write
from tests.docs.guide import DOCS, follow
from visuomotor.text.scene_questions import KINDS
from visuomotor.training.metrics import read_metrics

GUIDE = DOCS / "vision-language.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("guide")
    write(root / "demos", change=annotated)
    return follow(GUIDE, root)


def test_the_guide_leaves_what_it_promises(folder: Path) -> None:
    for run, source in (("talk", "talk"), ("mixed", "questions")):
        lines = read_metrics(folder / "runs" / run / "metrics.jsonl")
        assert any(f"validation/source_loss/{source}/text" in line for line in lines)
    for answers in ("runs/talk/answers", "runs/mixed/answers"):
        record = json.loads((folder / answers / "answers.json").read_text())
        assert record["scores"]
        assert {a["kind"] for a in record["answers"]} <= set(KINDS)
    assert "<h2>Answers</h2>" in (folder / "runs" / "talk" / "report.html").read_text()


def test_every_kind_is_named() -> None:
    text = GUIDE.read_text()
    assert all(f"`{kind}`" in text for kind in KINDS)
