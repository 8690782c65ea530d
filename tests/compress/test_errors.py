import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from slimsight.compress.errors import RunError, report_out_of_memory


class Dying(IterableDataset):  # type: ignore[type-arg]
    """A worker that the system kills."""

    def __iter__(self) -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield 0


def in_numpy() -> None:
    np.zeros(1 << 55, np.uint8)


def in_torch() -> None:
    torch.zeros(1 << 55, dtype=torch.uint8)


def in_python() -> None:
    bytearray(1 << 60)


@pytest.mark.parametrize("want", [in_numpy, in_torch, in_python])
def test_memory_that_is_not_there_is_one_sentence(want) -> None:
    with (
        pytest.raises(
            RunError,
            match=r"^stage 'gates' ran out of memory; lower its batch_size, or free memory, and run again: what was "
            r"finished is kept$",
        ),
        report_out_of_memory("stage 'gates'"),
    ):
        want()


def test_memory_of_a_device_is_told_apart() -> None:
    said = r"^stage 'gates' ran out of GPU memory; lower its batch_size and run again"
    with pytest.raises(RunError, match=said), report_out_of_memory("stage 'gates'"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def lost_by_a_loader() -> None:
    for _ in DataLoader(Dying(), num_workers=1, multiprocessing_context="fork"):
        pass


def lost_by_a_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        pool.submit(_die).result()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("lose", [lost_by_a_loader, lost_by_a_pool])
def test_a_worker_that_was_killed_is_one_sentence(lose) -> None:
    with (
        pytest.raises(
            RunError, match=r"^stage 'gates' lost a worker process, which was killed \(mostly by a system that"
        ),
        report_out_of_memory("stage 'gates'"),
    ):
        lose()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), report_out_of_memory("stage 'gates'"):
        raise RuntimeError("shapes differ")
