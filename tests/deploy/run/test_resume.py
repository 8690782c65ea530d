"""Runs that are killed inside their stages."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import Silent, Stop
from slimsight.compress.training.checkpoint import LEAST_SECONDS, SavedCheckpoint
from slimsight.deploy.cli.main import stop_on_signals
from slimsight.deploy.report import Report
from slimsight.deploy.run.resume import CHECKPOINT_SECONDS_VARIABLE, checkpoint_seconds


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """``kill(what, step)``: from now on die in that training, right behind the save of that step, the only one."""
    monkeypatch.setenv(CHECKPOINT_SECONDS_VARIABLE, "0")
    save = SavedCheckpoint.save

    def at(what: str, last: int) -> None:
        def saved(self: Any, step: int) -> None:
            if (self._what, step) == (what, last):
                save(self, step)
                raise Killed

        monkeypatch.setattr(SavedCheckpoint, "save", saved)

    return at


def weights(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.safetensors")}


def test_a_run_killed_inside_its_stages_learns_the_same_bits(
    finished: Any, rerun: Callable[..., Report], kill: Callable[[str, int], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """From the gates on: each process goes on where the one before died, and dies later; the last, at the export."""
    root, notes = finished.copy(tmp_path / "run"), Notes()
    for stage in ("gates", "surgery", "finetune", "export"):
        shutil.rmtree(root / "stages" / stage)
    for what, step in (("gates (rbf)", 31), ("gates (rbf)", 140), ("finetune", 25)):  # epochs are of 20 steps
        kill(what, step)
        with pytest.raises(Killed):
            rerun(root, progress=notes)

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("slimsight.deploy.run.stages.prove.export", die)
    with pytest.raises(Killed):
        rerun(root, progress=notes)
    went_on = [note.split(" of ")[0] for note in notes.said if "goes on after" in note]
    assert went_on == [
        f"{what}: goes on after step {step}"
        for what, step in (("gates (rbf)", 31), ("gates (rbf)", 140), ("finetune", 25))
    ]
    assert weights(root) == weights(finished.root)
    assert (root / "slim/plan.json").read_bytes() == (finished.root / "slim/plan.json").read_bytes()
    assert not list((root / "checkpoints").iterdir())


def test_a_changed_recipe_never_goes_on_from_a_checkpoint(
    rerun: Callable[..., Report], kill: Callable[[str, int], None], tmp_path: Path
) -> None:
    kill("classifier", 3)
    with pytest.raises(Killed):
        rerun(tmp_path)
    notes = Notes()
    kill("classifier", 5)
    with pytest.raises(Killed):
        rerun(tmp_path, "model.train.lr=0.2", progress=notes)
    assert not any("goes on" in note for note in notes.said)
    kill("classifier", 7)
    with pytest.raises(Killed):  # what it left is its own
        rerun(tmp_path, "model.train.lr=0.2", progress=notes)
    assert "classifier: goes on after step 5 of 120" in notes.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_asks_first_and_then_stops(number: signal.Signals) -> None:
    stop, before = Stop(), signal.getsignal(number)
    with stop_on_signals(stop):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert not stop.wanted
        stop.heeded = True
        signal.raise_signal(number)
        assert stop.wanted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_signals_that_were_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stop_on_signals(Stop()):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_worker_dies_of_the_signal_as_if_it_had_no_handler() -> None:
    with stop_on_signals(Stop()):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_sigterm_ends_a_command_like_ctrl_c(
    say: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first steps of a training: it says where it stopped, and that it can go on."""
    due = SavedCheckpoint.due

    def terminate(self: Any) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        while not self._owner.stop.wanted:
            pass
        return bool(due.__get__(self))

    monkeypatch.setattr(SavedCheckpoint, "due", property(terminate))
    said = say("run", tiny, "--out", tmp_path / "run")
    assert said.code == 130
    assert said.err.splitlines()[-2:] == [
        "classifier: stopped after step 1",
        "error: interrupted; the same command again goes on where it stopped",
    ]
    assert (tmp_path / "run/checkpoints/classifier/classifier.safetensors").is_file()


@pytest.mark.parametrize(("text", "seconds"), [(None, LEAST_SECONDS), ("", LEAST_SECONDS), ("0", 0), ("2.5", 2.5)])
def test_how_often_is_up_to_the_environment(text: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHECKPOINT_SECONDS_VARIABLE, raising=False)
    if text is not None:
        monkeypatch.setenv(CHECKPOINT_SECONDS_VARIABLE, text)
    assert checkpoint_seconds() == seconds


@pytest.mark.parametrize("text", ["often", "-1", "nan", "inf"])
def test_what_is_no_number_of_seconds_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKPOINT_SECONDS_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"SLIMSIGHT_CHECKPOINT_SECONDS is '{text}'; give seconds, 0 for"):
        checkpoint_seconds()


@pytest.fixture(autouse=True)
def default_interrupt() -> Iterator[None]:
    """What a shell starts in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
