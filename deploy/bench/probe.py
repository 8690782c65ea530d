"""Try each model in a process of its own first: whether it runs there at all, and how much memory it takes.

One process imports the runtimes and nothing more; every trial is a fork of it. What a trial's peak resident memory
grew by, from just before the model is opened until after its calls, is the model's alone: nothing else was ever opened
there. A trial that fails, or takes its process down, is a reason, and the rest goes on.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_CALLS = 3  # the first allocates what is kept; later ones what is freed in between
_FORGET = Path("/proc/self/clear_refs")
_KILOBYTE = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True)
class Trial:
    """What is tried: see ``BenchModel``. ``size`` (H, W) of the images, pixels."""

    name: str
    given: str
    files: dict[str, str]
    engines: dict[str, str]
    run: str | None
    role: str
    runtime: str
    threads: int
    batch: int
    device: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Tried:
    """``error``: why it cannot run, None where it can. Bytes that peak memory grew by; of a device None on a CPU."""

    error: str | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None


class Prober:
    """The process that trials are forked of, while open; started by the first trial."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            if error is not None:
                os.killpg(self._server.pid, signal.SIGTERM)  # the fork that works now, too
            self._server.wait()
            assert self._server.stdout is not None
            self._server.stdout.close()
            self._server = None

    def __call__(self, trial: Trial) -> Tried:
        """Open the model and run a few calls."""
        if self._server is None:
            # A session of its own: Ctrl-C in the terminal is for the parent, which then ends this one.
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],  # -P: nothing is imported from the current folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asdict(trial)) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            return Tried(f"the process that tries models ended ({self._server.wait()})")
        return Tried(**json.loads(answer))


def attempt(trial: Trial) -> Tried:
    """Run a trial in this process.

    Raises:
        Exception: whatever a runtime raises.
    """
    import numpy as np
    import torch

    from slimsight.export.runners.choose import open_runner

    from .models import BenchModel

    subject = BenchModel(
        trial.name,
        trial.given,
        {suffix: Path(path) for suffix, path in trial.files.items()},
        {runtime: Path(path) for runtime, path in trial.engines.items()},
        None if trial.run is None else Path(trial.run),
        trial.role,
    )
    images = np.random.default_rng(0).random((trial.batch, 3, *trial.size), dtype=np.float32)
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None  # makes the context, which all share
    if trial.runtime in ("torch", "torch-compile", "pt2"):
        _touch_torch()
    before: int | None = _peak_anew()
    found = subject.open(trial.runtime)
    if isinstance(found, torch.nn.Module):
        found = found.to(trial.device)
        before = _peak_without(found)
    with open_runner(found, trial.runtime, trial.threads) as runner:
        for _ in range(_CALLS):
            logits = runner.run(images)
        left = torch.cuda.mem_get_info()[0] if free is not None else None
    if not np.isfinite(logits).all():
        return Tried("its logits are NaN or infinite")
    return Tried(
        host_bytes=None if before is None else _peak_bytes() - before,
        device_bytes=None if free is None or left is None else max(0, free - left),
    )


def _touch_torch() -> None:
    """Have torch load its libraries of kernels: they are no model's memory."""
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.LazyLinear(2)
    )
    with torch.inference_mode():
        net.eval()(torch.zeros(1, 3, 8, 8))


def _peak_bytes() -> int:
    """Most memory that was resident so far; Linux can be told to forget it (``_peak_anew``)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILOBYTE


def _peak_anew() -> int:
    """The peak from which growth counts: what is resident now, where the system can forget its peak (Linux).

    What was freed before would hide as much growth: it is given back and forgotten.
    """
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    if _FORGET.exists():
        _FORGET.write_text("5", encoding="ascii")  # proc(5): resets the peak of the resident set
    return _peak_bytes()


def _peak_without(module: Any) -> int | None:
    """The peak from which a module's growth counts, its own weights on the host counted as growth.

    Rebuilding a module from a run takes more than the module: that must be forgotten first. None where it cannot be.
    """
    if not _FORGET.exists():
        return None
    held = [x for x in (*module.parameters(), *module.buffers()) if x.device.type == "cpu"]
    return _peak_anew() - int(sum(x.numel() * x.element_size() for x in held))


def forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns in a fork of this process; ``{"error": why}`` where it raises or the fork dies."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            answer = work()
        except Exception as error:  # noqa: BLE001 - runtimes share no base class, and any failure is the answer
            lines = str(error).strip().splitlines()
            answer = {"error": lines[0].rstrip(".") if lines else type(error).__name__}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)  # nothing of the parent's is flushed or closed twice
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        found: dict[str, Any] = json.loads(text)
        return found
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    how = signal.Signals(number).name if number is not None else f"exit code {os.waitstatus_to_exitcode(status)}"
    return {"error": f"its process ended with {how}" + (" (out of memory?)" if number == signal.SIGKILL else "")}


def _answer(trial: Trial) -> dict[str, Any]:
    return asdict(attempt(trial))


def _serve(jobs: IO[str], answers: IO[str]) -> None:
    for line in jobs:
        trial = Trial(**json.loads(line))
        answer = forked(partial(_answer, trial))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _main() -> None:
    """Answers on standard output; what libraries print there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Imported, never used here: threads that a runtime starts would not be there in a fork.
    from slimsight.export.runners import choose, import_onnxruntime

    for name in (
        "slimsight.deploy.bench.models",
        "slimsight.deploy.settings.recipe",
        "slimsight.deploy.report",
        "slimsight.deploy.slim_folder",
    ):
        importlib.import_module(name)
    if choose.why_unavailable()["onnxruntime-cpu"] is None:
        import_onnxruntime()
    _serve(sys.stdin, answers)


if __name__ == "__main__":
    _main()
