"""Every verb that writes a folder refuses one that another process holds: one sentence, and nothing changes."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import TRAIN, Command
from tests.data import recording
from tests.holding import holding, leave_foreign_lock, leave_lock, snapshot

WRITERS = {
    "train": ("train", "own-data", "--data", "{annotated}", "--steps", "1", *TRAIN),
    "collect": ("collect", "reach", "--episodes", "1", "--workers", "1"),
    "eval": ("eval", "{line}", "--environment", "line", "--episodes", "1", "--control-episodes", "0", "--workers", "1"),
    "eval-text": ("eval-text", "{line}", "--data", "{annotated}", "--validation", "1"),
    "demo": ("demo", "--from-scratch"),
    "study": ("study", "dm0-mechanisms", "--data", "{annotated}"),
    "study execution": ("study", "execution", "{line}", "--environment", "line"),
    "convert": ("convert", "{line}"),
    "data annotate": ("data", "annotate", "{plain}"),
    "data conversations": ("data", "conversations", "{annotated}"),
}
MODES = {
    "train": ("--resume", "--overwrite"),
    "collect": ("--resume", "--overwrite"),
    "eval": ("--resume", "--overwrite"),
    "eval-text": ("--overwrite",),
    "study": ("--overwrite",),
}
CASES = [(verb, mode) for verb in WRITERS for mode in ("", *MODES.get(verb, ()), "--break-lock")]


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording.write(tmp_path_factory.mktemp("annotated") / "arm", change=recording.annotated).root


@pytest.fixture
def arguments(annotated: Path, recorded: Path, line_checkpoint: Path, out: Path) -> dict[str, list[str]]:
    places = {"annotated": annotated, "plain": recorded, "line": line_checkpoint}
    return {verb: [w.format(**places) for w in words] + ["--out", str(out)] for verb, words in WRITERS.items()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize(("verb", "mode"), CASES, ids=lambda value: value or "plain")
def test_a_folder_in_use_is_refused(
    command: Command, arguments: dict[str, list[str]], out: Path, verb: str, mode: str
) -> None:
    out.mkdir()
    (out / "precious").write_text("what the holder writes")
    with holding(out) as holder:
        answer = command(*arguments[verb], *filter(None, [mode]))
        assert answer.status == 1
        assert answer.sentence.startswith(f"visuomotor {verb.split()[0]}: {out} is in use by process {holder.pid} on ")
        assert (out / ".lock").exists()
    assert snapshot(out) == {"precious": b"what the holder writes"}
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("verb", WRITERS)
def test_a_lock_of_another_host_needs_the_flag(
    command: Command, arguments: dict[str, list[str]], out: Path, verb: str
) -> None:
    leave_foreign_lock(out / ".lock")
    answer = command(*arguments[verb])
    assert answer.status == 1
    assert f"process {os.getpid()} on host elsewhere" in answer.sentence
    assert "take its lock with --break-lock" in answer.sentence
    assert (out / ".lock").exists()


@pytest.mark.parametrize("verb", ["train", "collect", "eval", "eval-text", "data annotate", "data conversations"])
@pytest.mark.parametrize("left", ["dead", "foreign"])
def test_a_lock_that_is_taken_over_leaves_no_trace(
    command: Command, arguments: dict[str, list[str]], out: Path, verb: str, left: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    lock = out.parent / ".out.lock" if verb in ("collect", "data annotate") else out / ".lock"
    (leave_lock if left == "dead" else leave_foreign_lock)(lock)
    answer = command(*arguments[verb], *(["--break-lock"] if left == "foreign" else []))
    assert answer.status == 0, answer.error
    assert f"{'Taking over' if left == 'dead' else 'Breaking'} the lock of {out}" in caplog.text
    assert list(out.parent.iterdir()) == [out]
    assert not list(out.parent.rglob("*.lock"))


def test_help_says_what_a_lock_is(command: Command) -> None:
    assert "One process at a time writes into a folder" in command().out
    assert "--break-lock" in command().out
