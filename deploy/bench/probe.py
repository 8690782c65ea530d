"""Trial runs of models, each in a process of its own: whether a model runs in a runtime, and its peak memory.

One server process imports the runtimes and nothing more; each trial is a fork of it. The growth of a trial's peak
resident memory, from just before the model is opened until after its calls, is the model's: nothing else was opened
there. Where a trial fails or crashes its process, the reason is recorded, and the sweep goes on.
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
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from slimsight.compress.errors import first_error_line

if TYPE_CHECKING:
    from .models import BenchModel

_TRIAL_CALLS = 3  # the first allocates buffers that stay; later ones show what is freed in between
_CLEAR_REFS = Path("/proc/self/clear_refs")
_KILOBYTE = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True)
class Trial:
    """A model in a runtime at a sweep point. ``size`` (H, W) of the images, pixels."""

    model: BenchModel
    runtime: str
    threads: int
    batch: int
    device: str
    size: tuple[int, int]

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)  # paths

    @classmethod
    def from_json(cls, text: str) -> Trial:
        from .models import BenchModel

        trial = json.loads(text)
        model = trial["model"]
        paths = {key: {name: Path(path) for name, path in model[key].items()} for key in ("files", "engines")}
        run = None if model["run"] is None else Path(model["run"])
        return cls(**{**trial, "model": BenchModel(**{**model, **paths, "run": run}), "size": tuple(trial["size"])})


@dataclass(frozen=True)
class TrialResult:
    """``error``: why the model cannot run, or None. Growth of peak memory in bytes; of a device's, None on a CPU."""

    error: str | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None


class Prober:
    """The server process of which trials are forks; started by the first trial, ended on exit."""

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
                os.killpg(self._server.pid, signal.SIGTERM)  # the fork that runs now, too
            self._server.wait()
            assert self._server.stdout is not None
            self._server.stdout.close()
            self._server = None

    def __call__(self, trial: Trial) -> TrialResult:
        """Open the model and run a few calls."""
        if self._server is None:
            # A session of its own: Ctrl-C in the terminal reaches only the parent, which then ends this one.
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
        self._server.stdin.write(trial.to_json() + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            return TrialResult(f"the process that tries models ended ({self._server.wait()})")
        return TrialResult(**json.loads(answer))


def run_trial(trial: Trial) -> TrialResult:
    """Run a trial in this process.

    Raises:
        Exception: whatever a runtime raises.
    """
    import numpy as np
    import torch

    from slimsight.export.runners.choose import open_runner

    images = np.random.default_rng(0).random((trial.batch, 3, *trial.size), dtype=np.float32)
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None  # makes the context, which all share
    if trial.runtime in ("torch", "torch-compile", "pt2"):
        _load_torch_kernels()
    before: int | None = _reset_peak()
    model = trial.model.open(trial.runtime)
    if isinstance(model, torch.nn.Module):
        model = model.to(trial.device)
        before = _reset_peak_without(model)
    with open_runner(model, trial.runtime, trial.threads) as runner:
        for _ in range(_TRIAL_CALLS):
            logits = runner.run(images)
        left = torch.cuda.mem_get_info()[0] if free is not None else None
    if not np.isfinite(logits).all():
        return TrialResult("its logits are NaN or infinite")
    return TrialResult(
        host_bytes=None if before is None else _peak_bytes() - before,
        device_bytes=None if free is None or left is None else max(0, free - left),
    )


def _load_torch_kernels() -> None:
    """Make torch load its kernel libraries, which must not count as a model's memory."""
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.LazyLinear(2)
    )
    with torch.inference_mode():
        net.eval()(torch.zeros(1, 3, 8, 8))


def _peak_bytes() -> int:
    """Peak resident memory so far, in bytes; on Linux ``_reset_peak`` resets it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILOBYTE


def _reset_peak() -> int:
    """Reset the peak, on Linux to what is resident now, and return it.

    Memory that was freed but not returned to the system would hide growth: it is returned first.
    """
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")  # proc(5): resets the peak of the resident set
    return _peak_bytes()


def _reset_peak_without(module: Any) -> int | None:
    """Reset the peak and return it without the module's weights on the host, which thus count as growth.

    Rebuilding a module from a run takes more memory than the module has; None where the peak cannot be reset.
    """
    if not _CLEAR_REFS.exists():
        return None
    on_host = [x for x in (*module.parameters(), *module.buffers()) if x.device.type == "cpu"]
    return _reset_peak() - int(sum(x.numel() * x.element_size() for x in on_host))


def run_in_fork(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call ``work`` in a fork of this process and return its result; ``{"error": why}`` if it raises or crashes."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            answer = work()
        except Exception as error:  # noqa: BLE001 - runtimes share no base class, and any failure is the answer
            answer = {"error": first_error_line(error)}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)  # nothing of the parent's is flushed or closed twice
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        result: dict[str, Any] = json.loads(text)
        return result
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    how = signal.Signals(number).name if number is not None else f"exit code {os.waitstatus_to_exitcode(status)}"
    return {"error": f"its process ended with {how}" + (" (out of memory?)" if number == signal.SIGKILL else "")}


def _answer_trial(line: str) -> str:
    trial = Trial.from_json(line)
    return json.dumps(run_in_fork(lambda: asdict(run_trial(trial))))


def _main() -> None:
    """The server process: answers trials on standard output; output of libraries goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Imported but not used here: threads that a runtime starts would be missing in a fork.
    from slimsight.export.onnx_files.runtime import import_onnxruntime, import_openvino
    from slimsight.export.runners import choose

    for name in (
        "slimsight.deploy.bench.models",
        "slimsight.deploy.settings.recipe",
        "slimsight.deploy.report",
        "slimsight.deploy.slim_folder",
    ):
        importlib.import_module(name)
    available = choose.why_unavailable()
    for name, load in (("onnxruntime-cpu", import_onnxruntime), ("openvino", import_openvino)):
        if available[name] is None:
            load()
    for line in sys.stdin:
        print(_answer_trial(line), file=answers, flush=True)


if __name__ == "__main__":
    _main()
