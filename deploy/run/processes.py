"""Several processes (ranks) for one run: launching them, which rank prints, and how they exit."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from slimsight.compress.errors import ConfigError, Interrupted

from ..host import usable_cores

if TYPE_CHECKING:
    from ..settings.recipe import Recipe

RERUN_TEXT = "the same command again goes on where it stopped"
INTERRUPTED_MESSAGE = f"interrupted; {RERUN_TEXT}"
PEER_LOST_MESSAGE = f"another process of this run has ended; {RERUN_TEXT}"

_LAUNCHED_VARIABLE = "SLIMSIGHT_LAUNCHED"
"""Set in ranks that ``launch`` has started: the launcher reports how they ended."""

_FEWEST_ON_CPU = 8  # processes that --devices may ask for, however few cores there are
_POLL_SECONDS = 0.5
_STORE_SECONDS = 5
_LEADER_SECONDS = 1


def launched_processes() -> int:
    """World size given by torchrun (or ``launch``), over all machines; 0 if neither started this process."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def is_leader() -> bool:
    """Whether this is rank 0: the only one that writes files and prints."""
    return not launched_processes() or os.environ["RANK"] == "0"


def check_devices(wanted: int | None) -> None:
    """Check the number of processes asked for with ``--devices``.

    Raises:
        ConfigError: it is less than 1, more than there are GPUs, or torchrun has started others already.
    """
    if wanted is None:
        return
    if wanted < 1:
        raise ConfigError(f"--devices {wanted}: 1 or more is needed, e.g. --devices 2 for two GPUs")
    if (there := launched_processes()) and wanted != there:
        raise ConfigError(
            f"--devices {wanted} inside torchrun, which says how many processes there are ({there}): leave --devices "
            "out"
        )
    if wanted == 1 or there:
        return
    import torch

    if not torch.cuda.is_available() and wanted > (most := max(_FEWEST_ON_CPU, usable_cores().all)):
        raise ConfigError(f"--devices {wanted}: without a GPU processes share the cores; give at most {most}")
    if torch.cuda.is_available() and wanted > (gpus := torch.cuda.device_count()):
        raise ConfigError(
            f"--devices {wanted}: this machine has {gpus} {'GPU' if gpus == 1 else 'GPUs'}; give at most {gpus} "
            "(CUDA_VISIBLE_DEVICES= runs on the CPU), or start it on several machines with torchrun"
        )


def launch(arguments: Sequence[str], devices: int) -> int:
    """Run ``slimsight`` with these arguments in ``devices`` processes of this machine; returns their exit code.

    Their output is passed through; if one dies, the others are ended.

    Raises:
        Interrupted: a signal ended one or all of them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with TemporaryDirectory(prefix="slimsight") as logs, _environment(devices), _muted_launcher_logs():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=f"slimsight-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)(*_python_options(), "-m", "slimsight", *arguments)
        except ChildFailedError as error:
            return _exit_code({rank: failure.exitcode for rank, failure in error.failures.items()}, devices)
        except SignalException:
            raise Interrupted(INTERRUPTED_MESSAGE) from None
    return 0


def _python_options() -> list[str]:
    """As this process was started: ``-m`` alone would import from the current folder, where ``slimsight`` does not."""
    return [] if sys.path[0] in ("", str(Path.cwd())) else ["-P"]


def _exit_code(codes: Mapping[int, int], devices: int) -> int:
    """Exit code of the rank that failed first; the others failed because it was gone."""
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    if killed:
        number, by = next(iter(killed.items()))
        often = " (often: out of memory)" if by == signal.SIGKILL else ""
        raise Interrupted(
            f"process {number + 1} of {devices} was ended by {signal.Signals(by).name}{often}; {RERUN_TEXT}"
        )
    failed = [code for code in codes.values() if code > 0 and code != Interrupted.exit_code]
    if not failed:
        raise Interrupted(INTERRUPTED_MESSAGE)
    return failed[0]


@contextmanager
def _muted_launcher_logs() -> Iterator[None]:
    """Silence torch's launcher: ranks and ``launch`` report failures themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _environment(devices: int) -> Iterator[None]:
    """Environment of the ranks: cores are shared among them unless OMP_NUM_THREADS is set."""
    added = {_LAUNCHED_VARIABLE: str(devices)}
    if "OMP_NUM_THREADS" not in os.environ:
        added["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // devices))
    if "TORCH_CPP_LOG_LEVEL" not in os.environ:  # the reducer advises against find_unused_parameters
        added["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def exit_with_launcher() -> None:
    """End this rank when its launcher is killed; otherwise it would go on and keep the run locked."""
    if launched_processes():
        threading.Thread(target=_exit_after, args=(os.getppid(),), daemon=True).start()


def ignore_signals_unless_leader() -> None:
    """Ignore Ctrl-C and SIGTERM on ranks other than 0, which finishes its step and then ends the others."""
    if not is_leader():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def is_lost_peer(error: BaseException) -> bool:
    """Whether ``error`` means that another rank of the run is gone."""
    if not launched_processes():
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def prints_errors(error: BaseException) -> bool:
    """Whether this rank prints ``error``: the first rank that asks does."""
    if not launched_processes():
        return True
    if _LAUNCHED_VARIABLE in os.environ and (is_lost_peer(error) or isinstance(error, KeyboardInterrupt)):
        return False  # the launcher reports it
    if not is_leader():
        time.sleep(_LEADER_SECONDS)  # rank 0 writes the log, and most likely has the same error
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # torch makes it public only where built so

    name = f"slimsight/{os.environ['TORCHELASTIC_RUN_ID']}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/said"
    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=_STORE_SECONDS),
        )
        return bool(store.add(name, 1) == 1)
    except (DistError, RuntimeError):  # the launcher is gone, too
        return is_leader()


def check_batch_sizes(recipe: Recipe, processes: int) -> None:
    """Check that every batch has at least one image per process and part.

    Raises:
        ConfigError: the recipe's key is named.
    """
    least = processes * recipe.accumulate
    for key, size in batch_sizes(recipe).items():
        if size < least:
            parts = f" in {recipe.accumulate} parts each (accumulate)" if recipe.accumulate > 1 else ""
            shared = f"{processes} processes{parts}" if processes > 1 else f"{recipe.accumulate} parts (accumulate)"
            raise ConfigError(
                f"{key} is {size}: a batch of {size} images cannot be shared by {shared}; set it to {least} or more, "
                "or take fewer"
            )


def batch_sizes(recipe: Recipe) -> dict[str, int]:
    """Images per step of every stage of the run that learns, by the recipe's key."""
    sizes = {"finetune.batch_size": recipe.finetune.batch_size}
    if recipe.model.trained:
        sizes["model.train.batch_size"] = recipe.model.train.batch_size
    if recipe.explainer.enabled:
        explainer = recipe.explainer
        if recipe.gates.explainer == "varsal":
            sizes["explainer.varsal.batch_size"] = explainer.varsal.batch_size
        else:
            sizes["explainer.predictor.batch_size"] = explainer.predictor.batch_size
            sizes["explainer.selector.batch_size"] = explainer.selector.batch_size
    if recipe.gates.learned:
        sizes["gates.batch_size"] = recipe.gates.batch_size
    if recipe.dynamic.enabled:
        sizes["dynamic.batch_size"] = recipe.dynamic.batch_size
    return sizes


def as_arguments(recipe: Path, out: Path | None, overrides: Sequence[str], reuse: Path | None) -> list[str]:
    """``slimsight run`` with these options, as a command line."""
    options = [("--out", out), ("--reuse", reuse), *(("--set", item) for item in overrides)]
    return ["run", str(recipe), *(text for name, value in options if value is not None for text in (name, str(value)))]
