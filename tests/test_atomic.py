from pathlib import Path

import pytest

from visuomotor.atomic import whole_folder


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for text in ("first", "second"):
        with whole_folder(target) as partial:
            (partial / "a").write_text(text)
            assert not target.exists() or (target / "a").read_text() == "first"
        assert (target / "a").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "a").write_text("old")

    def fail() -> None:
        with whole_folder(target) as partial:
            (partial / "a").write_text("new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
