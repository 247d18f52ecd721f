"""Whose lock may be taken over: of the dead, never of the living, of those on other hosts on request."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.holding import holding, leave_foreign_lock, leave_lock
from visuomotor import lock_files
from visuomotor.lock_files import FolderInUse, acquire

CONTENDER = """
import sys, time
from pathlib import Path
from visuomotor.lock_files import FolderInUse, acquire
for line in sys.stdin:
    path, start = line.split()
    while time.monotonic() < float(start):
        pass
    try:
        file = acquire(Path(path), Path(path).parent)
    except FolderInUse:
        print("refused", flush=True)
    else:
        print("taken", flush=True)
        sys.stdin.readline()  # the others have answered
        file.remove()
"""
CHURN = """
import os, sys, time
from pathlib import Path
from visuomotor.lock_files import FolderInUse, acquire
path, count, end = Path(sys.argv[1]), 0, time.monotonic() + 2
while time.monotonic() < end:
    try:
        file = acquire(path, path.parent)
    except FolderInUse:
        continue
    os.close(os.open(path.with_name("inside"), os.O_CREAT | os.O_EXCL))  # fails beside another owner
    os.unlink(path.with_name("inside"))
    file.remove()
    count += 1
print(count)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".lock"


def take(path: Path, *, break_lock: bool = False) -> None:
    acquire(path, path.parent, break_lock=break_lock).remove()
    assert not path.exists()


def test_a_living_process_keeps_its_lock(path: Path) -> None:
    with holding(path.parent) as process:
        for break_lock in (False, True):
            with pytest.raises(FolderInUse) as refusal:
                acquire(path, path.parent, break_lock=break_lock)
            text = str(refusal.value)
            assert text.startswith(f"{path.parent} is in use by process {process.pid} on host {os.uname().nodename}")
            assert f"(-c {path.parent} inside)" in text
            assert "choose another folder" in text
            assert ("--break-lock never takes the lock of a process that runs" in text) == break_lock
        record = path.read_text()
    assert f'"pid": {process.pid}' in record
    assert not path.parent.exists(), "the folder was made for the lock alone"
    take(path)


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(path: Path, reaped: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Also of one that nobody has waited for, whose number still exists."""
    with holding(path.parent) as process:
        os.kill(process.pid, signal.SIGKILL)
        if reaped:
            process.wait()
        else:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            os.kill(process.pid, 0)
        assert path.exists()
        take(path)
    assert f"Taking over the lock of {path.parent}, left by process {process.pid} on host" in caplog.text
    assert "no longer runs" in caplog.text


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"pid": os.getpid()},  # alive, but another process than the owner
        {"pid": 1},
        {"boot": "before the last start of this computer", "pid": 1},
        {"host": "container", "pid": 1},  # under this kernel
    ],
)
def test_a_lock_that_no_process_of_this_kernel_holds_is_taken_over(
    path: Path, record: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    leave_lock(path, **record)
    take(path)
    assert "since 2026-11-29 12:00:00+00:00 (visuomotor train fake), which no longer runs" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 3}'])
def test_a_damaged_record_names_nobody(path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_text(content)
    take(path)
    assert "left by an unknown process" in caplog.text


def test_a_lock_of_another_host_is_broken_on_request_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave_foreign_lock(path)
    before = path.read_text()
    with pytest.raises(
        FolderInUse, match=r"on host elsewhere since .*cannot tell whether .* --break-lock \(break_lock"
    ):
        acquire(path, path.parent)
    assert path.read_text() == before
    take(path, break_lock=True)
    assert "Breaking the lock" in caplog.text
    assert "elsewhere" in caplog.text


def test_of_processes_that_race_for_a_dead_lock_exactly_one_wins(path: Path) -> None:
    command = [sys.executable, "-c", CONTENDER]
    contenders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    def say(process: subprocess.Popen, text: str) -> None:
        assert process.stdin is not None
        process.stdin.write(text + "\n")
        process.stdin.flush()

    def hear(process: subprocess.Popen) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    for number in range(40):
        leave_lock(path, pid=2**22 + number)
        start = time.monotonic() + (0.02 if number else 1.0)  # the first round waits for imports
        for contender in contenders:
            say(contender, f"{path} {start}")
        answers = [hear(contender) for contender in contenders]
        assert sorted(answers) == ["refused", "refused", "taken"], f"round {number}"
        say(contenders[answers.index("taken")], "release")
    for contender in contenders:
        contender.communicate()
        assert contender.returncode == 0


def test_a_lock_that_changes_hands_has_one_owner_at_a_time(path: Path) -> None:
    command = [sys.executable, "-c", CHURN, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(counts) > 30, counts
    assert not path.exists()


def test_a_file_that_its_owner_removes_while_it_is_opened_is_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(path)
    attempts: list[int] = []

    def take_late(descriptor: int) -> bool | None:
        if not attempts:
            path.unlink()
        attempts.append(descriptor)
        return take_kernel_lock(descriptor)

    take_kernel_lock = lock_files._take_kernel_lock
    monkeypatch.setattr(lock_files, "_take_kernel_lock", take_late)
    file = acquire(path, path.parent)
    assert len(attempts) == 2
    assert os.path.samestat(path.stat(), os.fstat(file.descriptor))
    file.remove()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_kernel_locks(path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exclusive creation still decides; only what it cannot tell has to be said with `break_lock`."""

    def lock_descriptor(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock_files, "lock_descriptor", lock_descriptor)
    file = acquire(path, path.parent)
    for break_lock in (False, True):
        with pytest.raises(FolderInUse, match="Wait until it ends"):  # this process runs
            acquire(path, path.parent, break_lock=break_lock)
    file.remove()
    assert not path.exists()
    leave_lock(path)
    with pytest.raises(FolderInUse, match="cannot tell"):
        acquire(path, path.parent)
    take(path, break_lock=True)


def test_a_full_disk_leaves_no_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            acquire(path, path.parent)
    assert not path.exists()
    take(path)


def test_a_lock_file_that_another_one_replaced_is_not_deleted(path: Path) -> None:
    file = acquire(path, path.parent)
    path.unlink()
    leave_foreign_lock(path)
    file.remove()
    assert path.exists()


def test_a_free_folder_is_taken_silently(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    take(path)
    assert not caplog.records
