from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from slimsight.deploy.bench.probe import _peak_bytes, _reset_peak, run_in_fork


def test_a_fork_answers() -> None:
    assert run_in_fork(lambda: {"pid": os.getpid()})["pid"] != os.getpid()


def test_a_failure_is_a_reason() -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("no kernel for this.\nA long trace follows")

    assert run_in_fork(fail) == {"error": "no kernel for this"}


def test_a_process_that_dies_is_a_reason() -> None:
    def die() -> dict[str, object]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    assert run_in_fork(die) == {"error": "its process ended with SIGKILL (out of memory?)"}
    assert run_in_fork(lambda: os._exit(3)) == {"error": "its process ended with exit code 3"}


def test_the_peak_grows_by_what_is_allocated_and_remembers_what_was_freed() -> None:
    def allocate() -> dict[str, object]:
        before = _reset_peak()
        values = np.ones(64 * 2**20 // 8)
        del values
        return {"grown": _peak_bytes() - before}

    assert 60 * 2**20 < run_in_fork(allocate)["grown"] < 80 * 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_what_was_freed_before_hides_no_growth() -> None:
    freed = [np.ones(128 * 2**20 // 8)]

    def allocate() -> dict[str, object]:
        freed.clear()
        before = _reset_peak()
        values = np.ones(64 * 2**20 // 8)
        return {"grown": _peak_bytes() - before, "bytes": values.nbytes}

    assert 60 * 2**20 < run_in_fork(allocate)["grown"] < 80 * 2**20
