"""Where memory ran out: the ways in which Python, torch, the runtimes and the system say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import RunError

_ON_DEVICE = ("CUDA out of memory", "CUDA error: out of memory", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC")
_ON_HOST = ("DefaultCPUAllocator", "can't allocate memory", "bad_alloc", "bad allocation", "Cannot allocate memory")
_WORKER = "DataLoader worker"  # torch says so of a process that ended by itself


def out_of_memory(error: BaseException) -> str | None:
    """Which memory ran out, or whose process was killed; None: ``error`` says something else.

    Messages, not types, tell most of them: torch raises RuntimeError, and no runtime is imported here.
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(sign in text for sign in _ON_DEVICE):
        return "ran out of GPU memory; lower its batch_size and run again"
    if isinstance(error, MemoryError) or any(sign in text for sign in _ON_HOST):
        return "ran out of memory; lower its batch_size, or free memory, and run again"
    if type(error).__name__ == "BrokenProcessPool" or (isinstance(error, RuntimeError) and _WORKER in text):
        return (
            "lost a worker process, which was killed (mostly by a system that has no memory left); free memory or take "
            "fewer workers, and run again"
        )
    return None


@contextmanager
def memory_told(what: str) -> Iterator[None]:
    """Say in one sentence that ``what`` ran out of memory; other errors pass.

    Raises:
        RunError: it did, or one of its processes was killed.
    """
    try:
        yield
    except Exception as error:
        said = out_of_memory(error)
        if said is None:
            raise
        raise RunError(f"{what} {said}: what was finished is kept") from error
