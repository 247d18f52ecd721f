"""One writer at a time: processes, threads, symlinks, nesting, distributed runs, folders that are replaced."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.holding import holding, leave_foreign_lock, leave_lock
from visuomotor.locks import FolderInUse, FolderLock

FORKS = """
import os, sys, time
from visuomotor.locks import FolderLock
lock = FolderLock(sys.argv[1])
child = os.fork()
if child == 0:  # what a fork does to the lock is done before the child says who it is
    print(os.getpid(), flush=True)
    if sys.argv[2] == "sleeps":
        time.sleep(60)
    sys.exit()
if sys.argv[2] == "ends":
    os.waitpid(child, 0)
    print(os.path.exists(sys.argv[1] + "/.lock"), flush=True)
sys.stdin.read()
"""
ENDS = """
import sys
from visuomotor.locks import FolderLock
lock = FolderLock(sys.argv[1])
open(sys.argv[1] + "/made", "w").close()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "mine"


def test_nothing_remains_of_a_lock(out: Path) -> None:
    for beside in (False, True):
        with FolderLock(out, beside=beside):
            lock = out.parent / ".mine.lock" if beside else out / ".lock"
            assert lock.exists()
            assert out.exists() != beside
        assert list(out.parent.iterdir()) == []
    with FolderLock(out) as lock:
        (out / "made").touch()
        lock.release()
        lock.release()
    assert [path.name for path in out.iterdir()] == ["made"]


def test_a_folder_that_was_there_stays(out: Path) -> None:
    out.mkdir(parents=True)
    with FolderLock(out):
        pass
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("mine", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_locks_in_a_folder_and_beside_it_exclude_each_other(out: Path, mine: bool, theirs: bool) -> None:
    with holding(out, beside=theirs) as process:
        for break_lock in (False, True):
            with pytest.raises(FolderInUse, match=f"{out} is in use by process {process.pid}"):
                FolderLock(out, beside=mine, break_lock=break_lock)
        assert len(list(out.parent.rglob("*.lock"))) == 1
    with FolderLock(out, beside=mine):
        pass


@pytest.mark.parametrize("mine", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_what_a_dead_process_left_is_cleared_away(out: Path, mine: bool, theirs: bool) -> None:
    lock = out.parent / ".mine.lock" if theirs else out / ".lock"
    leave_lock(lock)
    with FolderLock(out, beside=mine):
        assert lock.exists() == (mine == theirs), "a left lock would count as content of the folder"
    leave_foreign_lock(lock)
    with pytest.raises(FolderInUse, match="host elsewhere"):
        FolderLock(out, beside=mine)
    assert len(list(out.parent.rglob("*.lock"))) == 1
    FolderLock(out, beside=mine, break_lock=True).release()
    assert list(out.parent.rglob("*.lock")) == []


def test_symlinks_name_the_same_folder(tmp_path: Path, out: Path) -> None:
    out.mkdir(parents=True)
    (tmp_path / "link").symlink_to(out)
    for beside in (False, True):
        with holding(out, beside=beside), pytest.raises(FolderInUse):
            FolderLock(tmp_path / "link", beside=beside)
        with FolderLock(tmp_path / "link", beside=beside), pytest.raises(FolderInUse, match="this thread"):
            FolderLock(out / ".." / "mine", beside=beside)


def test_one_process_holds_a_folder_once(out: Path) -> None:
    refusals: list[str] = []

    def other_thread(nested: bool) -> None:
        try:
            FolderLock(out, nested=nested)
        except FolderInUse as error:
            refusals.append(str(error))

    with FolderLock(out):
        for nested in (False, True):
            thread = threading.Thread(target=other_thread, args=(nested,))
            thread.start()
            thread.join()
        with pytest.raises(FolderInUse, match=rf"this thread of this process \({os.getpid()}\)"):
            FolderLock(out)
    assert len(refusals) == 2
    assert all("another thread of this process" in text for text in refusals)
    FolderLock(out).release()


def test_a_nested_lock_belongs_to_the_outer_one(out: Path) -> None:
    with FolderLock(out, beside=True):
        for beside in (False, True):
            with FolderLock(out, beside=beside, nested=True):
                pass
        assert (out.parent / ".mine.lock").exists(), "an inner block gives nothing back"
        assert not out.exists()
    with FolderLock(out, nested=True):  # without an outer one it is a lock like others
        assert (out / ".lock").exists()
        with pytest.raises(FolderInUse):
            FolderLock(out)


def test_folders_below_have_locks_of_their_own(out: Path) -> None:
    with FolderLock(out), FolderLock(out / "train"), FolderLock(out / "data", beside=True):
        assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.lock")) == [
            ".data.lock", ".lock", "train/.lock",
        ]  # fmt: skip


def test_breaking_holds_for_folders_below_as_long_as_the_lock(out: Path) -> None:
    leave_foreign_lock(out / ".lock")
    leave_foreign_lock(out / "train" / ".lock")
    with FolderLock(out, break_lock=True):
        FolderLock(out / "train").release()
    leave_foreign_lock(out / "train" / ".lock")
    with FolderLock(out), pytest.raises(FolderInUse):
        FolderLock(out / "train")
    with FolderLock(out.parent / "other", break_lock=True), pytest.raises(FolderInUse):
        FolderLock(out / "train")


@pytest.mark.parametrize(("rank", "locks"), [("", True), ("0", True), ("none", True), ("1", False), ("7", False)])
def test_the_first_process_of_a_distributed_run_locks_for_all(
    out: Path, rank: str, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    with FolderLock(out):
        assert out.exists() == locks
    with holding(out):  # as the first process
        if locks:
            with pytest.raises(FolderInUse):
                FolderLock(out)
        else:
            FolderLock(out).release()
            assert (out / ".lock").exists(), "the first process's lock stays"


def test_a_dropped_lock_is_given_back(out: Path) -> None:
    lock = FolderLock(out)
    del lock
    assert not out.exists()
    subprocess.run([sys.executable, "-c", ENDS, str(out)], check=True)  # at the end of the interpreter, too
    assert [path.name for path in out.iterdir()] == ["made"]


def test_a_forked_child_neither_keeps_nor_releases_a_lock(out: Path) -> None:
    def start(child: str) -> subprocess.Popen:
        command = [sys.executable, "-c", FORKS, str(out), child]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    parent = start("ends")
    answers = parent.communicate()[0].split()
    assert answers[1] == "True"
    parent = start("sleeps")
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    with pytest.raises(FolderInUse):
        FolderLock(out)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    try:
        os.kill(child, 0)
        FolderLock(out).release()
    finally:
        os.kill(child, signal.SIGKILL)
    parent.communicate()


def test_what_cannot_be_written_is_said(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.parent.mkdir()
    out.write_text("a file")
    with pytest.raises(NotADirectoryError, match=f"{out} is a file; give a folder"):
        FolderLock(out)
    with pytest.raises(OSError, match=f"{out}/run cannot be locked: .*Choose a writable folder"):
        FolderLock(out / "run")
    assert out.read_text() == "a file"

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    for beside in (False, True):
        with pytest.raises(OSError, match=r"other cannot be locked: .*lock: Read-only file system\. Choose a writable"):
            FolderLock(out.parent / "other", beside=beside)
    monkeypatch.undo()
    FolderLock(out.parent / "other").release()
