"""Code that is not ours: whatever it raises reaches the user as one sentence that names the place."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import TracebackType

import torch

from ..errors import ModelError, SlimError

_TORCH = str(Path(torch.__file__).parent) + os.sep


class UserCode:
    """Context: an exception inside becomes a ModelError "``doing``: type: message (file, line n)".

    The place is the deepest line in ``file``; without one, the deepest line outside torch. Interrupts pass.
    """

    def __init__(self, doing: str, file: Path | None = None) -> None:
        self.doing = doing
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # sys.exit() in a script that was meant to be run, not imported, must not end ours without a word.
        if isinstance(error, SlimError) or not isinstance(error, Exception | SystemExit):
            return
        text = " ".join(str(error).split())
        place = _place(error, trace, self.file)
        raise ModelError(f"{self.doing}: {type(error).__name__}{f': {text}' if text else ''} ({place})") from error


def calling_line() -> str:
    """The line outside torch, and outside of this package, from which torch is just being called."""
    ours = str(Path(__file__).parents[1]) + os.sep
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith((_TORCH, ours))]
    return f"{frames[-1].filename}, line {frames[-1].lineno}"


def _place(error: BaseException, trace: TracebackType | None, file: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(trace)
    if file is None:
        chosen = [frame for frame in frames if not frame.filename.startswith(_TORCH)]
    else:
        chosen = [frame for frame in frames if frame.filename == str(file)]
    frame = (chosen or list(frames))[-1]
    return f"{frame.filename}, line {frame.lineno}"
