"""What the command line says when the machine or the user stops it."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import PruningError

from ..conftest import Said


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The disk takes no larger files (bytes): as near to a full one as a test gets without mounting anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_for_a_file_keeps_what_is_finished(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, overrides: list[str], finished: Any
) -> None:
    assert finished, "its images lie in the cache"
    out = tmp_path / "out"
    with files_up_to(92_000):  # the weights fit (91 kB), the exported files do not
        said = say("run", tiny, "--out", out, *overrides)
    assert said.code == 2
    assert re.fullmatch(
        rf"error: the file is larger than this account or disk allows: {re.escape(str(out))}/[a-z/]+\.(onnx|pt2) could "
        r"not be written; free some space \(or choose another --out\) and run again: what was finished is kept\n",
        said.error,
    )
    assert not list(out.rglob("*.part"))
    said = say("run", tiny, "--out", out, *overrides)
    assert said.code in (0, 1)
    assert said.err.startswith("done before: classifier, gates, surgery, finetune\n")


@pytest.mark.parametrize("place", ["new", "finished"])
def test_a_full_disk_is_said_and_loses_nothing(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, finished: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    out = tmp_path / "out" if place == "new" else finished.copy(tmp_path / "out")

    def refuse(path: Path, *_args: object, **_options: object) -> int:
        raise OSError(28, os.strerror(28), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        said = say("run", tiny, "--out", out)
    assert said.code == 2
    written = "recipe.yaml" if place == "new" else "panels/explained.json"
    assert said.error.startswith(f"error: the disk is full: {out / written} could not be written; free some space")
    if place == "finished":
        assert (out / "report.json").read_bytes() == (finished.root / "report.json").read_bytes()


def test_an_error_that_nobody_expected_of_the_system_is_one_sentence_too(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> bytes:
        raise OSError(5, "Input/output error", "/dev/disk")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    said = say("run", tiny, "--out", tmp_path / "out", "--set", "model.weights=x.pt")
    assert said.code == 2
    assert "Input/output error" in said.error


def test_ctrl_c_is_exit_130_and_says_how_to_go_on(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slimsight.deploy.run.pipeline.preflight", interrupt)
    said = say("run", tiny, "--out", tmp_path / "out")
    assert said.code == 130
    assert said.error == "error: interrupted; the same command again goes on where it stopped\n"
    assert said.error[:-1] in (tmp_path / "out" / "run.log").read_text()


def test_errors_are_in_the_runs_log_too(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise PruningError("this did not work")

    monkeypatch.setattr("slimsight.deploy.run.pipeline.preflight", fail)
    assert say("run", tiny, "--out", tmp_path / "out").error == "error: this did not work\n"
    assert (tmp_path / "out" / "run.log").read_text().endswith(" error: this did not work\n")


@pytest.mark.parametrize("command", ["--help", "status"])
def test_standard_output_that_takes_nothing(command: str, request: pytest.FixtureRequest) -> None:
    """Full: said, exit code 2. Nobody reads it: as if SIGPIPE ended it."""
    words = [command] if command == "--help" else [command, str(request.getfixturevalue("finished").root)]
    call = [sys.executable, "-m", "slimsight", *words]
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(call, text=True, check=False, stderr=subprocess.PIPE, stdout=full)
    assert said.returncode == 2
    assert said.stderr.startswith("error: standard output cannot be written: No space left on device; send it")
    reader, writer = os.pipe()
    os.close(reader)
    said = subprocess.run(call, text=True, check=False, stderr=subprocess.PIPE, stdout=writer)
    os.close(writer)
    assert (said.returncode, said.stderr) == (141, "")


@pytest.mark.parametrize("redirected", ["> out", "> out 2> /dev/full", "2>&-", ">&- 2>&-"])
def test_streams_that_are_full_closed_or_ascii_change_no_exit_code(tmp_path: Path, redirected: str) -> None:
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    call = f"{sys.executable} -m slimsight status r\u00f6.onnx {redirected}"
    said = subprocess.run(call, env=plain, cwd=tmp_path, text=True, check=False, capture_output=True, shell=True)
    assert (said.returncode, "Traceback" in said.stderr) == (2, False)
    assert (r"r\xf6.onnx" in said.stderr) == (redirected == "> out")


def test_what_standard_output_cannot_write_is_escaped() -> None:
    code = "from slimsight.deploy.cli.streams import prepare_streams as p; p(); print('r\u00f6\u65e5')"
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    said = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert said.stdout == "r\\xf6\\u65e5\n"
