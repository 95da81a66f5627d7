"""SIGTERM and Ctrl-C as a request that a run looks at between its steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

_WATCHED = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """While it is entered, the first SIGTERM or SIGINT is only noted; a second SIGINT acts at once.

    Does nothing outside the main thread, where Python allows no handlers, and leaves a signal alone that is ignored
    (as in what `nohup` starts).

    Attributes:
      received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _WATCHED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        with contextlib.suppress(OSError):  # whoever read it is gone
            # Not print, which a signal must not enter twice.
            os.write(2, f"\n{self.received.name}: finishing this step, then saving (Ctrl-C: stop at once)\n".encode())
