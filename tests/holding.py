"""Processes that hold folders, for tests of what others may do meanwhile."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visuomotor.lock_files import BOOT_ID

HOLD = """
import sys
from visuomotor.locks import FolderLock
with FolderLock(sys.argv[1], beside=sys.argv[2] == "beside"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(folder: Path, *, beside: bool = False) -> Iterator[subprocess.Popen]:
    """A process that holds `folder` until the block ends, or until the test kills it."""
    place = "beside" if beside else "inside"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"RANK": "0"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    try:
        yield process
    finally:
        process.communicate()


def leave_lock(path: Path, **changes: object) -> None:
    """A lock file as a process leaves it that dies; by default one of this kernel with a number that nobody has."""
    record = {
        "host": socket.gethostname(),
        "boot": BOOT_ID.read_text().strip(),
        "pid": 2**22 + 1,
        "since": "2026-11-29 12:00:00+00:00",
        "command": "visuomotor train fake",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | changes) + "\n")


def leave_foreign_lock(path: Path) -> None:
    """A lock file of a process on another host."""
    leave_lock(path, host="elsewhere", boot="other", pid=os.getpid())


def snapshot(folder: Path) -> dict[str, bytes]:
    """The files of a folder with what they hold, but for its lock."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
