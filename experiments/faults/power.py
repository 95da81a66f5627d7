"""Power cuts: a run is recorded, and the disk is rebuilt as it may be after a cut, without what was not synced.

A file holds what it held when it was last synced; a folder has the names it had then. Each later change may or
may not be on the disk: `strict` drops all of it, `torn` draws for every name and every file, whose
end may be missing or zeros.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from jaxnas.runs import checkpoints

_MOMENTS = ("fsync", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "truncate")

Entry = tuple[int, bool]
"""Number of a file or folder, and whether it is a folder."""


class Recorder:
    """While it is entered, what this process syncs below a folder is noted, and images are made at some moments.

    Args:
      root: the folder, which is taken to be on the disk.
      images: a new folder for them.
      moments: at which calls that change files (counted from 0) an image is made.
      draw: what is kept of what was not synced.

    Attributes:
      moments: calls so far.
      made: `(image, name of the newest checkpoint whose writing had returned, or "")`.
    """

    def __init__(self, root: Path, images: Path, moments: set[int], draw: random.Random):
        self.moments = 0
        self.made: list[tuple[Path, str]] = []
        self._root, self._images, self._chosen, self._draw = root, images, moments, draw
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, Entry]] = {}
        self._held: list[int] = []  # open, so that no number is given away again
        self._saved = ""
        self._busy = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Recorder:
        self._note(os.open(self._root, os.O_RDONLY))
        for name in _MOMENTS:
            self._stack.enter_context(mock.patch.object(os, name, self._watched(name, getattr(os, name))))
        save = checkpoints.save

        def saved(folder, position, state, **options):
            save(folder, position, state, **options)
            self._saved = position.name

        self._stack.enter_context(mock.patch.object(checkpoints, "save", saved))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for each in self._held:
            os.close(each)

    def _watched(self, name: str, call: Callable) -> Callable:
        def watched(*arguments, **options):
            if not self._busy:
                self.moments += 1
                if self.moments - 1 in self._chosen:
                    self._busy = True
                    self._image()
                    self._busy = False
            result = call(*arguments, **options)
            if name == "fsync" and not self._busy:
                self._note(os.dup(arguments[0]))
            return result

        return watched

    def _note(self, opened: int) -> None:
        """Remembers what the disk holds of a file or folder from now on."""
        self._held.append(opened)
        about = os.fstat(opened)
        if stat.S_ISDIR(about.st_mode):
            self._folders[about.st_ino] = dict(_listed(opened))
        else:
            self._files[about.st_ino] = _content(f"/proc/self/fd/{opened}")

    def _image(self) -> None:
        strict = self._draw.random() < 0.5
        target = self._images / f"{len(self.made):05d}-{'strict' if strict else 'torn'}"
        self._folder(target, os.stat(self._root).st_ino, self._root, strict)
        self.made.append((target, self._saved))

    def _folder(self, target: Path, number: int, real: Path | None, strict: bool) -> None:
        target.mkdir()
        before = self._folders.get(number, {})
        now = dict(_listed(real)) if real is not None else before
        for name in sorted({**before, **now}):
            was, is_now = before.get(name), now.get(name)
            entry = was if was == is_now or strict or self._draw.random() < 0.5 else is_now
            if entry is None:
                continue
            there = real / name if real is not None and entry == is_now else None
            if entry[1]:
                self._folder(target / name, entry[0], there, strict)
            else:
                (target / name).write_bytes(self._bytes(entry[0], there, strict))

    def _bytes(self, number: int, real: Path | None, strict: bool) -> bytes:
        synced = self._files.get(number, b"")
        if strict or real is None:
            return synced
        current = _content(real)
        if current == synced:
            return synced
        kept = len(synced) if current.startswith(synced) else 0  # what is appended does not touch the rest
        cut = self._draw.randint(kept, len(current))
        return self._draw.choice([synced, current, current[:cut], current[:cut] + bytes(len(current) - cut)])


def _listed(folder: int | Path) -> Iterator[tuple[str, Entry]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, (entry.inode(), entry.is_dir(follow_symlinks=False))


def _content(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read()
