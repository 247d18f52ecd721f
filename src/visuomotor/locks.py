"""Exclusive use of a folder by one writer at a time.

    with FolderLock(out):
        ...  # read, delete and write in `out`

The file that carries a lock, and what makes an owner count as dead: `lock_files`.
"""

import os
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from visuomotor.lock_files import FolderInUse, LockFile, acquire

__all__ = ["FolderInUse", "FolderLock"]


class FolderLock:
    """Lock of `folder` from construction to `release`, the end of the `with` block, or the end of the object.

    The lock file lies in the folder, which is created; with `beside` it lies next to the folder, for writers that
    replace the folder as a whole. The two kinds exclude each other. Of a distributed run (torchrun) the first process
    takes the lock for all; processes with a RANK above 0 take none.

    Args:
        nested: a lock that this thread holds already suffices. By default it is refused, too, because two writers of
            one process harm each other as two processes do.
        break_lock: take a lock of a process on another host, of which this host cannot tell whether it runs. This
            holds for locks of folders below, too, while this lock lasts.

    Raises:
        FolderInUse: a process or a thread holds the folder.
        OSError: the lock file cannot be written.
    """

    def __init__(
        self, folder: Path | str, *, beside: bool = False, nested: bool = False, break_lock: bool = False
    ) -> None:
        folder = Path(folder)
        home = folder.resolve()  # symlinks to one folder share its lock
        self._finalizer = None
        if _rank() > 0 or not _reserve(home, folder, nested, break_lock):
            return
        try:
            file, created = _take(home, folder, beside, _breaks(home))
        except BaseException:
            _holders.pop(home)
            raise
        _descriptors.add(file.descriptor)
        # It also runs for an object that is dropped without `release`, and at the end of the interpreter.
        self._finalizer = weakref.finalize(self, _release, os.getpid(), home, file, created)

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True)
class Holder:
    thread: int
    break_lock: bool


_holders: dict[Path, Holder] = {}  # by resolved folder; of locks that are about to be taken, too
_descriptors: set[int] = set()
_guard = threading.Lock()


def _rank() -> int:
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdigit() else 0


def _reserve(home: Path, folder: Path, nested: bool, break_lock: bool) -> bool:
    """Note this thread as the holder of `home`; False if it is that already, and `nested` lets this suffice."""
    thread = threading.get_ident()
    with _guard:
        holder = _holders.get(home)
        if holder is None:
            _holders[home] = Holder(thread, break_lock)
            return True
    if nested and holder.thread == thread:
        return False
    which = "this thread" if holder.thread == thread else "another thread"
    raise FolderInUse(
        f"{folder} is in use by {which} of this process ({os.getpid()}). Let that writer end, or choose another folder."
    )


def _breaks(home: Path) -> bool:
    """True if this thread may break the lock of `home`, or of a folder above it."""
    holders = [_holders.get(folder) for folder in (home, *home.parents)]
    return any(holder == Holder(threading.get_ident(), True) for holder in holders)


def _take(home: Path, folder: Path, beside: bool, break_lock: bool) -> tuple[LockFile, bool]:
    """(lock file, True if the folder was created for it)."""
    paths = home / ".lock", home.parent / f".{home.name}.lock"
    path, other = reversed(paths) if beside else paths
    exists = home.exists()
    if not beside and exists and not home.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder.")
    try:
        file = acquire(path, folder, break_lock=break_lock)
        try:
            # Each kind creates its own file before it looks for the other's, so that of two at least one is refused.
            if os.path.exists(other):
                acquire(other, folder, break_lock=break_lock).remove()
        except BaseException:
            file.remove()
            raise
    except FolderInUse:
        raise
    except OSError as error:
        raise OSError(
            f"{folder} cannot be locked: {path}: {error.strerror or error}. Choose a writable folder."
        ) from error
    return file, not beside and not exists


def _release(pid: int, home: Path, file: LockFile, created: bool) -> None:
    if pid != os.getpid():  # a forked child inherits the object, but not the lock
        return
    _descriptors.discard(file.descriptor)
    file.remove()
    if created:
        with suppress(OSError):  # something was written into it
            home.rmdir()
    _holders.pop(home, None)


def _forget() -> None:
    """Close a parent's lock files in its forked child, which would otherwise hold them longer than the parent."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _holders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
