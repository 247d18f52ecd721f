"""A file that one process holds at a time, with a record of its owner.

The owner also holds the kernel's lock on the file, which ends with the process, however that ends. So a file whose
kernel lock is available was left by a dead process. No process number has to be judged, which another process or
another container may have by now. Where kernel locks do not reach (another host, a file system without them), the
exclusive creation of the file and its record decide.
"""

import json
import logging
import os
import socket
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from filelock import lock_descriptor

__all__ = ["FolderInUse", "LockFile", "Owner", "acquire"]

logger = logging.getLogger(__name__)
RECORD_SECONDS = 0.5  # the longest time between the creation of a lock file and its record
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FolderInUse(OSError):
    """Another process or thread writes into the folder; the message says which one."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Record in a lock file. `boot` names a running kernel, which containers share; empty where it is unknown."""

    host: str
    boot: str
    pid: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} since {self.since} ({self.command})"

    @property
    def local(self) -> bool:
        """True for an owner under this kernel, or under an earlier one of this host, before a reboot."""
        here = this_process()
        return (here.boot != "" and here.boot == self.boot) or here.host == self.host


@dataclass(frozen=True, kw_only=True)
class LockFile:
    """A lock file of this process, and its descriptor, which carries the kernel's lock."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Delete the file while the kernel's lock still protects it, unless it has been replaced by another one."""
        with suppress(OSError):
            if os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor)):
                self.path.unlink()
        os.close(self.descriptor)


@cache
def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def this_process() -> Owner:
    arguments = [Path(argument).name for argument in sys.argv[:1]] + sys.argv[1:]
    return Owner(
        host=socket.gethostname(),
        boot=_boot_id(),
        pid=os.getpid(),
        since=datetime.now().astimezone().isoformat(" ", "seconds"),
        command=textwrap.shorten(" ".join(arguments), 120) or "python",
    )


def acquire(path: Path, folder: Path, *, break_lock: bool = False) -> LockFile:
    """Create the lock file of `folder`, or take over one whose owner is dead; missing parents are created.

    Raises:
        FolderInUse: the owner lives, or may live, and `break_lock` does not say otherwise.
    """
    while True:
        descriptor, created = _open(path, folder)
        file = LockFile(path=path, descriptor=descriptor)
        try:
            available = _take_kernel_lock(descriptor)
            if os.fstat(descriptor).st_nlink == 0:  # its owner has just removed it
                os.close(descriptor)
                continue
            if available is False or not created:
                _require_dead(_read(descriptor), folder, available, break_lock)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(this_process())).encode() + b"\n", 0)
        except BaseException:  # a full disk
            file.remove()
            raise
        return file


def _open(path: Path, folder: Path) -> tuple[int, bool]:
    """(descriptor, True if this call created the file)."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    while True:
        # Between any two of these calls an owner may remove its file, and an empty folder with it.
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError, FileNotFoundError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        try:
            return os.open(path, flags), False
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise FolderInUse(
                f"{folder} is locked by another user, whose lock file {path} cannot be opened. Choose another folder, "
                f"or remove that file if nobody writes into the folder."
            ) from error


def _take_kernel_lock(descriptor: int) -> bool | None:
    """Take the kernel's lock: False if a process has it, None if the file system offers none."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


def _read(descriptor: int) -> Owner | None:
    """The record; None if it is still missing or damaged after the time that an owner needs to write one."""
    deadline = time.monotonic() + RECORD_SECONDS
    while True:
        with suppress(ValueError, TypeError):
            return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def _require_dead(owner: Owner | None, folder: Path, available: bool | None, break_lock: bool) -> None:
    """Refuse the folder unless its owner is known to be dead, or `break_lock` says so of one that cannot be seen."""
    description = owner or "an unknown process"
    if available is False or (available is None and owner is not None and owner.local and _exists(owner.pid)):
        reason = " --break-lock never takes the lock of a process that runs: both would write into the folder."
        raise FolderInUse(
            f"{folder} is in use by {description}. Wait until it ends, stop it, or choose another folder."
            + (reason if break_lock else "")
        )
    if available and (owner is None or owner.local):
        logger.warning("Taking over the lock of %s, left by %s, which no longer runs.", folder, description)
        return
    if not break_lock:
        raise FolderInUse(
            f"{folder} is in use by {description}, and host {socket.gethostname()} cannot tell whether that process "
            f"still runs. Choose another folder; if it has ended, take its lock with --break-lock (break_lock=True)."
        )
    logger.warning("Breaking the lock of %s, held by %s.", folder, description)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
