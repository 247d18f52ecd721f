"""A step is done once: reused while its inputs stay, resumed after a kill, done anew when they change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from visuomotor.apps import steps as steps_module
from visuomotor.apps.steps import Steps, digest, source_digest
from visuomotor.contract import Source


class Work:
    """Writes its output and notes how it was called."""

    def __init__(self, output: Path, fail: bool = False) -> None:
        self.output, self.fail, self.calls = output, fail, []

    def __call__(self, resume: bool, overwrite: bool) -> None:
        self.calls.append((resume, overwrite))
        if self.fail:
            raise KeyboardInterrupt
        self.output.write_text("made")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "output")


def test_new_then_done(tmp_path: Path, work: Work) -> None:
    assert Steps(tmp_path).run("train", "a", work.output, work) == "new"
    assert Steps(tmp_path).run("train", "a", work.output, work) == "done"
    assert work.calls == [(False, True)]


def test_changed_inputs_overwrite(tmp_path: Path, work: Work) -> None:
    for inputs in ("a", "b"):
        assert Steps(tmp_path).run("train", inputs, work.output, work) == "new"
    assert work.calls == [(False, True)] * 2


def test_an_interrupted_step_is_resumed(tmp_path: Path, work: Work) -> None:
    with pytest.raises(KeyboardInterrupt):
        Steps(tmp_path).run("train", "a", work.output, Work(work.output, fail=True))
    assert Steps(tmp_path).run("train", "a", work.output, work) == "interrupted"
    assert work.calls == [(True, False)]
    assert Steps(tmp_path).state("train", "a", work.output) == "done"


def test_a_lost_output_is_made_again(tmp_path: Path, work: Work) -> None:
    Steps(tmp_path).run("train", "a", work.output, work)
    work.output.unlink()
    assert Steps(tmp_path).state("train", "a", work.output) == "interrupted"


def test_what_no_step_made_is_not_overwritten(tmp_path: Path, work: Work) -> None:
    work.output.write_text("somebody's")
    with pytest.raises(FileExistsError, match="Choose another folder"):
        Steps(tmp_path).run("train", "a", work.output, work)
    assert work.output.read_text() == "somebody's"


def test_seconds_add_up_over_tries(tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 3.0, 100.0, 104.0])
    monkeypatch.setattr(steps_module.time, "monotonic", lambda: next(now))
    with pytest.raises(KeyboardInterrupt):
        Steps(tmp_path).run("train", "a", work.output, Work(work.output, fail=True))
    Steps(tmp_path).run("train", "a", work.output, work)
    assert Steps(tmp_path).seconds("train") == 7.0
    assert Steps.read(tmp_path)["train"] == {"inputs": "a", "done": True, "seconds": 7.0}


def test_a_broken_memory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("{")
    with pytest.raises(ValueError, match=r"steps\.json is not JSON"):
        Steps(tmp_path)


def test_digest_sees_fields_and_order() -> None:
    one, two = Source(name="a", path="x"), Source(name="a", path="y")
    assert digest(one) == digest(Source(name="a", path="x"))
    assert digest(one) != digest(two)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize("change", [lambda f: f.write_text("x = 2\n"), lambda f: f.rename(f.with_name("other.py"))])
def test_source_digest_sees_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(steps_module.visuomotor, "__file__", str(package / "__init__.py"))
    fresh = source_digest.__wrapped__
    before = fresh()
    assert fresh() == before
    change(package / "a.py")
    assert fresh() != before
