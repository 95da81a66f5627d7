"""One process at a time in a run directory."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

from jaxnas.errors import RunError
from jaxnas.files import make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Holds a file locked while it is entered. The system lets go of it when the process ends, however it ends.

    Where the system or the file system has no `flock` (Windows, some network drives), nothing is locked.

    Args:
      path: the file, which stays.
      guarded: what it guards, if not its folder.

    Raises:
      RunError: on entering, if another process (or another run in this one) holds it, or it cannot be made.
    """

    def __init__(self, path: str | os.PathLike, guarded: str | os.PathLike | None = None):
        self._path = Path(path)
        self._guarded = self._path.parent if guarded is None else guarded
        self._place = "this directory" if guarded is None else "this file"
        self._file: int | None = None

    def __enter__(self) -> Lock:
        try:
            make_folder(self._path.parent)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as e:
            raise RunError(f"{self._guarded}: cannot be written: {e.strerror}.") from None
        if not _taken(file):
            holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise RunError(f"{self._guarded}: {holder} is working in {self._place}; wait for it, or choose another.")
        self._file = file
        try:
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError:  # a full disk: the name of the holder is only for the message
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _taken(file: int) -> bool:
    """Tries to lock an open file."""
    if fcntl is None:
        return True
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)  # `held` may be looking just now
        except OSError as e:
            if e.errno in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                return True  # a file system without locks
            raise
    return False


def held(path: str | os.PathLike) -> bool:
    """Whether somebody holds the lock at this path."""
    if fcntl is None:
        return False
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or a file system without locks
        return False
    return False
