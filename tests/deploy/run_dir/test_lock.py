"""The lock of a run directory."""

import errno
import fcntl
import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from slimsight.compress.errors import RunError
from slimsight.deploy.run_dir import MARKER, open_run, read_run
from slimsight.deploy.run_dir.lock import CLAIM


def _hold(path: Path, ready: Event) -> None:
    with open_run(path):
        ready.set()
        signal.pause()


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    try:
        assert ready.wait(10)
        with (
            pytest.raises(RunError, match=rf"is in use by process {holder.pid}; wait until it ends"),
            open_run(tmp_path),
        ):
            pass
        assert read_run(tmp_path).writer() == holder.pid
    finally:
        holder.kill()
        holder.join()
    assert read_run(tmp_path).writer() is None
    with open_run(tmp_path) as run:
        assert run.writer() == os.getpid()


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path):
        raise KeyboardInterrupt
    with open_run(tmp_path) as run:
        assert run.root == tmp_path
    assert (tmp_path / MARKER).read_text() == ""


def test_a_lock_without_a_number_is_still_a_lock(tmp_path: Path) -> None:
    with (tmp_path / MARKER).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(RunError, match="is in use by another process; wait until it ends"),
            open_run(tmp_path),
        ):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_locks_a_file_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with open_run(tmp_path) as run:
            assert run.writer() == os.getpid()
            with (
                pytest.raises(
                    RunError,
                    match=rf"is in use by process {os.getpid()} on \S+, or was when that was killed \(its file system "
                    rf"has no locks\): wait until it ends, or remove {tmp_path / CLAIM} if it has",
                ),
                open_run(tmp_path),
            ):
                pass
        assert not (tmp_path / CLAIM).exists()
        assert read_run(tmp_path).writer() is None
        (tmp_path / CLAIM).write_text("77 elsewhere")  # as one that was killed leaves it
        with pytest.raises(RunError, match="is in use by process 77 on elsewhere, or was"), open_run(tmp_path):
            pass
    with pytest.raises(RunError, match="is in use by process 77 on elsewhere"), open_run(tmp_path):
        pass
    (tmp_path / CLAIM).unlink()
    with open_run(tmp_path) as run:
        assert run.writer() == os.getpid()
