"""Where libraries' own messages go: into the run's log, not onto the terminal."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_FORMAT, _TIME = "%(asctime)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"


class _File(logging.FileHandler):
    """A full disk must not end a run, or fill the terminal, for the sake of its log."""

    def handleError(self, record: logging.LogRecord) -> None:
        del record

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is still in the buffer
            super().close()


class LibraryMessages:
    """Within the block, what libraries log or warn is kept from the terminal; ``to`` names a file that gets it.

    Enter it before the libraries are imported: Lightning prints by itself unless somebody listens already.
    """

    def __init__(self) -> None:
        self._handlers: list[logging.Handler] = [logging.NullHandler()]

    def __enter__(self) -> Self:
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self._handlers[0])
        return self

    def to(self, path: Path) -> None:
        """Append every message from now on to ``path``."""
        handler = _File(path, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
        self._handlers.append(handler)
        logging.getLogger().addHandler(handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        logging.captureWarnings(False)
