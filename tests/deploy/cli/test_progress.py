import io
import json
import re
import sys
import time
from pathlib import Path

import pytest

from slimsight.compress.amounts import as_duration
from slimsight.compress.errors import RunError
from slimsight.compress.progress import Progress
from slimsight.deploy.cli import progress as module
from slimsight.deploy.cli.progress import ConsoleProgress, _rate


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain() -> tuple[ConsoleProgress, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return ConsoleProgress(stream, clock=clock), stream, clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[ConsoleProgress, Terminal, Clock]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream, clock = Terminal(), Clock()
    return ConsoleProgress(stream, clock=clock), stream, clock


def screen(text: str) -> str:
    """``text`` without the terminal's escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_plain_lines_at_the_start_each_tenth_and_the_end() -> None:
    progress, stream, clock = plain()
    for index in progress.track(range(5), "predictor", unit="img", scale=128):
        clock.now += 2
        progress.show(loss=1 / (index + 1), step=index)
    assert stream.getvalue().splitlines() == [
        "predictor: 640 img",
        "predictor: 20 %, 128/640 img, 64 img/s, 8.0 s left, loss 1, step 0",
        "predictor: 40 %, 256/640 img, 64 img/s, 6.0 s left, loss 0.5, step 1",
        "predictor: 60 %, 384/640 img, 64 img/s, 4.0 s left, loss 0.3333, step 2",
        "predictor: 80 %, 512/640 img, 64 img/s, 2.0 s left, loss 0.25, step 3",
        "predictor: 640 img in 10 s, 64 img/s, loss 0.2, step 4",
    ]


def test_fast_loops_leave_two_lines_and_slow_ones_one_every_ten_seconds() -> None:
    progress, stream, clock = plain()
    for _ in progress.track(range(1000), "fast"):
        clock.now += 0.0005
    assert stream.getvalue().splitlines() == ["fast: 1,000 it", "fast: 1,000 it in 0.5 s, 2,000 it/s"]
    stream.truncate(0)
    for _ in progress.track(iter(range(100)), "slow", total=1000):
        clock.now += 3
    lines = stream.getvalue().strip("\0").splitlines()
    assert lines[1] == "slow: 0 %, 4/1,000 it, 3 s/it, 49 min 48 s left"
    assert len(lines) == 2 + 25
    assert lines[-1] == "slow: 100 of 1,000 it in 5 min 00 s, 3 s/it"


def test_silence_without_a_terminal_is_broken_by_where_the_work_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_POLL", 0.01)
    progress, stream, clock = plain()

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in stream.getvalue():
            assert time.monotonic() < deadline, stream.getvalue()
            time.sleep(0.01)

    with progress:
        progress.note("tracing the model")
        clock.now += 24
        time.sleep(0.1)
        assert stream.getvalue() == "tracing the model\n"
        clock.now += 2
        wait_for("tracing the model (26 s so far)\n")
        for _ in progress.track(range(10), "groups", unit="groups"):
            clock.now += 26
            wait_for("groups: 0 %, 0/10 groups\n")
            break
    clock.now += 100
    length = len(stream.getvalue())
    time.sleep(0.1)
    assert len(stream.getvalue()) == length, "nothing is printed after the end"


def test_a_terminal_has_no_heartbeat(
    terminal: tuple[ConsoleProgress, Terminal, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_POLL", 0.01)
    progress, stream, clock = terminal
    with progress:
        clock.now += 1000
        time.sleep(0.1)
    assert stream.getvalue() == ""


def test_the_progress_file_is_kept_while_the_run_is_written(tmp_path: Path) -> None:
    progress, _, clock = plain()
    file = tmp_path / "progress.json"
    progress.log_to(tmp_path / "run.log", file)
    progress.note("stage 5 of 10: gates")
    assert json.loads(file.read_text())["note"] == "stage 5 of 10: gates"
    for _ in progress.track(range(4), "gates", unit="img", scale=10):
        clock.now += 5
        assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.json", "run.log"]
    assert json.loads(file.read_text())["step"] == "gates: 100 %, 40/40 img, 2 img/s"
    progress.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_unknown_and_empty_totals() -> None:
    progress, stream, clock = plain()
    assert list(progress.track([], "nothing")) == []
    for _ in progress.track(iter("ab"), "files", unit="files"):
        clock.now += 12
    assert stream.getvalue().splitlines() == [
        "nothing: 0 it",
        "nothing: 0 it in 0.0 s",
        "files: started",
        "files: 1 files, 12 s/files",
        "files: 2 files, 12 s/files",
        "files: 2 files in 24 s, 12 s/files",
    ]


def test_inside_another_only_what_takes_long_leaves_a_line() -> None:
    progress, stream, clock = plain()
    for epoch in progress.track(range(2), "epochs"):
        for _ in progress.track(range(3), f"epoch {epoch}"):
            clock.now += 0.2 if epoch == 0 else 0.6
        progress.show(loss=0.5)
    assert stream.getvalue().splitlines() == [
        "epochs: 2 it",
        "epoch 1: 67 %, 2/3 it, 1.67 it/s, 0.6 s left",
        "epoch 1: 3 it in 1.8 s, 1.67 it/s",
        "epochs: 2 it in 2.4 s, 1.2 s/it, loss 0.5",
    ]


def test_a_loop_that_is_left_early_says_how_far_it_came() -> None:
    progress, stream, clock = plain()
    for index in progress.track(range(10), "gates"):
        clock.now += 0.5
        if index == 3:
            break
    assert stream.getvalue().splitlines()[-1] == "gates: 3 of 10 it in 2.0 s, 1.5 it/s"


def test_no_carriage_return_or_escape_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress, stream, clock = plain()
    for _ in progress.track(range(20), "[bold]x[/]"):
        clock.now += 3
    progress.error("no [red]")
    text = stream.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    assert "[bold]x[/]: 20 it\n" in text
    assert text.endswith("error: no [red]\n")


def test_bars_on_a_terminal_vanish_and_leave_their_result(
    terminal: tuple[ConsoleProgress, Terminal, Clock],
) -> None:
    progress, stream, clock = terminal
    out = sys.stdout
    for index in progress.track(range(4), "[selector]", unit="img", scale=64):
        assert sys.stdout is out
        clock.now += 2
        progress.show(area=0.25)
        if index == 1:
            progress.note("a note [1]")
    text = stream.getvalue()
    drawn = screen(text)
    assert "75 %, 192/256 img, 32 img/s, 2.0 s left, area 0.25" in drawn
    assert "━" in drawn
    assert "a note [1]\n" in drawn
    assert drawn.endswith("[selector]: 256 img in 8.0 s, 32 img/s, area 0.25\n")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is shown again


def test_the_outer_bar_moves_while_inner_ones_come_and_go(
    terminal: tuple[ConsoleProgress, Terminal, Clock],
) -> None:
    progress, stream, clock = terminal
    for _ in progress.track(range(4), "epochs"):
        for _ in progress.track(range(2), "validate"):
            clock.now += 0.1
    drawn = screen(stream.getvalue())
    assert "50 %, 2/4 it" in drawn
    assert drawn.endswith("epochs: 4 it in 0.8 s, 5 it/s\n")
    assert "validate: " not in drawn  # too brief to leave a line


def test_an_error_takes_the_bars_away_first(terminal: tuple[ConsoleProgress, Terminal, Clock]) -> None:
    progress, stream, clock = terminal
    ticks = progress.track(range(4), "gates")
    next(ticks)
    clock.now += 1
    progress.error("the loss is nan.\n\n  lower lr\n")
    shown = screen(stream.getvalue())
    assert shown.endswith("error: the loss is nan.\n  lower lr\n")
    before = stream.getvalue()
    next(ticks)  # a generator that a traceback keeps alive draws nothing any more
    del ticks
    assert stream.getvalue() == before
    assert list(progress.track(range(2), "again")) == [0, 1]
    assert screen(stream.getvalue()).endswith("again: 2 it in 0.0 s\n")


def test_the_log_keeps_what_stays_on_the_screen(tmp_path: Path) -> None:
    progress, stream, clock = plain()
    with progress:
        progress.note("before")
        progress.log_to(tmp_path / "run.log")
        for _ in progress.track(range(3), "gates"):
            clock.now += 20
        progress.note("kept 512 of 1,008 channels")
        progress.show(accuracy=0.91234)
        progress.error("it failed")
    progress.note("after")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines] == [
        "gates: 3 it",
        "gates: 3 it in 1 min 00 s, 20 s/it",
        "kept 512 of 1,008 channels",
        "accuracy 0.9123",
        "error: it failed",
    ]
    assert stream.getvalue().splitlines()[-1] == "after"


def test_a_log_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    progress, _, _ = plain()
    with pytest.raises(RunError, match=r"cannot write the log .*: Is a directory; choose another --out"):
        progress.log_to(tmp_path)


def test_it_is_a_progress() -> None:
    progress: Progress = ConsoleProgress(io.StringIO())
    assert list(progress.track("ab", "letters")) == ["a", "b"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0.21, "4.76 s/img"), (1, "1 img/s"), (12.345, "12.3 img/s"), (28512.4, "28,512 img/s")],
)
def test_rates(per_second: float, text: str) -> None:
    assert _rate(per_second, "img") == text
