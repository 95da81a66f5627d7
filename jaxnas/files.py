"""Files and folders that survive a power cut: what a function here has written is on the disk when it returns.

A file is written beside its place, synced, renamed, and its folder synced: whatever happens, what stood there before
is there, or what is new, whole. Where a system cannot sync folders (Windows, some network drives) the rest holds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM)
"""What systems say that cannot open or sync a folder."""


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file durably, complete or not at all; its folder is made if need be. Raises OSError."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """As `write_text`, for bytes."""
    write(path, lambda file: file.write(data))


def write(path: str | os.PathLike, put: Callable[[BinaryIO], object]) -> None:
    """As `write_text`, with a function that writes into the open file."""
    path = Path(path)
    make_folder(path.parent)
    aside = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        write_new(aside, put)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    sync_folder(path.parent)


def write_new(path: str | os.PathLike, put: Callable[[BinaryIO], object]) -> None:
    """Writes and syncs a file in a folder of which `move_folder` makes a whole one. Raises OSError."""
    with open(path, "wb") as file:
        put(file)
        _sync(file)


def append_line(path: str | os.PathLike, text: str) -> None:
    """Adds a line to the end of a file, durably. What cannot be written whole is taken back. Raises OSError."""
    path = Path(path)
    new = not path.exists()
    with open(path, "ab") as file:
        end = file.tell()
        try:
            file.write(text.encode("utf-8") + b"\n")
            _sync(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, end)
            raise
    if new:
        sync_folder(path.parent)


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder and those above it that are missing, durably. Raises OSError."""
    path = Path(path).absolute()
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def move_folder(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Renames a folder whose files are synced (`write_new` does so) to a name that is free, durably. Raises OSError."""
    sync_folder(source)
    os.replace(source, target)
    sync_folder(Path(target).parent)


def remove_folder(path: str | os.PathLike) -> None:
    """Removes a folder with all that is in it, as far as possible.

    It is renamed first, to a name that ends in `.partial`: one that is half removed is not taken for a whole one.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name.removesuffix('.partial')}.partial")
    with contextlib.suppress(OSError):
        if aside != path:
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
    for left in {path, aside}:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def sync_folder(path: str | os.PathLike) -> None:
    """Makes durable which names a folder has, where the system can. Raises OSError."""
    if os.name == "nt":
        return
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as e:
        if e.errno in _NO_SYNC:
            return
        raise
    try:
        os.fsync(folder)
    except OSError as e:
        if e.errno not in _NO_SYNC:
            raise
    finally:
        os.close(folder)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
