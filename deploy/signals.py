"""Ctrl-C and SIGTERM: a training ends its step and saves, everything else stops where it is; exit code 130."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from slimsight.compress.stop import Stop

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Within the block these signals ask ``stop``; where nobody heeds it, and the second time, KeyboardInterrupt.

    Signals that this process was started to ignore stay ignored (nohup, a shell's background jobs). Outside the main
    thread, where handlers cannot be set, nothing changes.
    """
    owner = os.getpid()

    def asked(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker: it ends as if it had never heard of us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif stop.heeded and not stop.wanted:
            stop.wanted = True
        else:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
