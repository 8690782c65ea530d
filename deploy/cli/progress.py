"""Progress of a run: bars on a terminal, plain lines elsewhere, and a log in the run directory."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from slimsight.compress.amounts import as_duration
from slimsight.compress.errors import RunError
from slimsight.compress.files.untrusted import escape_controls

from .streams import drop_stream

T = TypeVar("T")

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 10.0  # longest time between two plain lines
_SHARE_SECONDS = 1.0  # shortest time between two lines, one for each 10 %
_BRIEF_SECONDS = 1.0  # nested work that is shorter leaves no line
_HEARTBEAT_SECONDS = 25.0  # longest silence where output is not a terminal
_HEARTBEAT_POLL = 5.0
_FILE_SECONDS = 2.0  # shortest time between two updates of the run's progress file


@dataclass(eq=False)
class _Task:
    """A running ``track`` and its progress in units."""

    what: str
    unit: str
    total: int | None
    started: float
    done: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    printed_at: float = 0.0
    printed_tenths: int = 0
    bar: TaskID | None = None

    def position(self, now: float) -> str:
        """Progress now: ``40 %, 1,408/3,520 img, 285 img/s, 7 s left, loss 0.31``."""
        seconds = now - self.started
        parts = []
        if self.total:
            parts += [
                f"{self.done / self.total:.0%}".replace("%", " %"),
                f"{self.done:,}/{self.total:,} {self.unit}",
            ]
        else:
            parts.append(f"{self.done:,} {self.unit}")
        if self.done and seconds > 0:
            parts.append(_rate(self.done / seconds, self.unit))
            if self.total and self.done < self.total:
                parts.append(f"{as_duration(seconds * (self.total - self.done) / self.done)} left")
        return ", ".join(parts + _figure_texts(self.figures))

    def result(self, now: float) -> str:
        """Result at the end: ``3,520 img in 12 s, 285 img/s, loss 0.31``."""
        seconds = now - self.started
        partly = f" of {self.total:,}" if self.total and self.done < self.total else ""
        parts = [f"{self.done:,}{partly} {self.unit} in {as_duration(seconds)}"]
        if self.done and seconds > 0:
            parts.append(_rate(self.done / seconds, self.unit))
        return ", ".join(parts + _figure_texts(self.figures))


class ConsoleProgress:
    """``slimsight.compress.progress.Progress`` on standard error; leave the block before anything else is printed.

    Bars vanish when they are full: what stays is one line each, with the last figures. Bars are not drawn by a
    thread, so that measurements between two items are not disturbed. Where output is not a terminal, a thread prints
    a line after ``_HEARTBEAT_SECONDS`` of silence.
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        # rich would take FORCE_COLOR for a terminal and write carriage returns into a CI log.
        self._console = Console(file=self._stream, force_terminal=self._stream.isatty(), highlight=False)
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars: Bars | None = None
        self._tasks: list[_Task] = []
        self._log: TextIO | None = None
        self._file: Path | None = None
        self._drawn_at = self._filed_at = 0.0
        self._last_note, self._printed_at = "", clock()
        self._noted_at = self._printed_at
        self._closed = threading.Event()
        self._silent = False

    def __enter__(self) -> ConsoleProgress:
        if not self._draws:
            threading.Thread(target=self._beat, name="progress heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log_to(self, path: Path, progress: Path | None = None) -> None:
        """Append every line that stays on the screen to ``path`` too, with its time.

        Args:
            progress: JSON file that is kept up to date with the current step, for ``slimsight status``.

        Raises:
            RunError: ``path`` cannot be written.
        """
        self._file = progress
        try:
            self._log = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise RunError(f"cannot write the log {path}: {error.strerror}; choose another --out") from error

    def close(self) -> None:
        """Take the bars off the screen and close the log; safe to call twice."""
        self._closed.set()
        self._tasks.clear()
        if self._file is not None:
            for path in (self._file, self._part):
                path.unlink(missing_ok=True)
            self._file = None
        self._stop_bars()
        if self._log is not None:
            self._log.close()
            self._log = None

    def track(
        self, items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it", scale: int = 1
    ) -> Iterator[T]:
        """Yield ``items``, showing rate and time left; ``total`` counts items, each of ``scale`` units."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        now = self._clock()
        task = _Task(what, unit, None if total is None else total * scale, now, printed_at=now)
        self._begin(task)
        try:
            for item in items:
                yield item
                task.done += scale
                self._advance(task)
        finally:
            self._end(task)

    def show(self, **figures: float) -> None:
        """Figures beside the innermost bar; without one, a line of their own."""
        if self._tasks:
            self._tasks[-1].figures.update(figures)
        else:
            self.note(", ".join(_figure_texts(figures)))

    def note(self, text: str) -> None:
        """One line that stays on the screen and in the log."""
        self._last_note, self._noted_at = text, self._clock()
        self._print(text)
        self._write_file(self._noted_at)

    def error(self, text: str) -> None:
        """``error: text`` in one paragraph, after the bars are gone."""
        self._tasks.clear()
        self._stop_bars()
        self._print(
            "error: " + "\n".join(line for line in escape_controls(text).split("\n") if line.strip()), style="red"
        )

    def _begin(self, task: _Task) -> None:
        self._tasks.append(task)
        if len(self._tasks) == 1:
            size = "started" if task.total is None else f"{task.total:,} {task.unit}"
            self._print(f"{task.what}: {size}", screen=not self._draws)
        if not self._draws:
            return
        if self._bars is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[position]}", markup=False),
            )
            # Standard output may be a pipe: only what libraries write to standard error moves above the bars.
            self._bars = Bars(
                *columns, console=self._console, transient=True, auto_refresh=False, redirect_stdout=False
            )
            self._bars.start()
        task.bar = self._bars.add_task(task.what, total=task.total, position=task.position(task.started))
        self._bars.refresh()

    def _advance(self, task: _Task) -> None:
        if task not in self._tasks:  # closed, or an error was printed: the generator outlives its use
            return
        now = self._clock()
        if now - self._filed_at >= _FILE_SECONDS:
            self._write_file(now)
        if self._bars is not None and task.bar is not None:
            if now - self._drawn_at >= _REDRAW_SECONDS:
                self._drawn_at = now
                for each in self._tasks:  # the outer ones too: the innermost is drawn so often that they never are
                    if each.bar is not None:
                        self._bars.update(each.bar, completed=each.done, position=each.position(now))
                self._bars.refresh()
            return
        tenths = 10 * task.done // task.total if task.total else 0
        elapsed = now - task.printed_at
        if elapsed >= _LINE_SECONDS or (tenths > task.printed_tenths and elapsed >= _SHARE_SECONDS):
            if task.done != task.total:  # the last line is the result
                self._print(f"{task.what}: {task.position(now)}", log=False)
            task.printed_at, task.printed_tenths = now, tenths

    def _end(self, task: _Task) -> None:
        if task not in self._tasks:
            return
        outermost = self._tasks[0] is task
        if outermost:
            self._tasks.clear()
            self._stop_bars()
        else:
            self._tasks.remove(task)
            if self._bars is not None and task.bar is not None:
                self._bars.remove_task(task.bar)
        now = self._clock()
        if outermost or now - task.started >= _BRIEF_SECONDS:
            self._print(f"{task.what}: {task.result(now)}")

    def _stop_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _beat(self) -> None:
        while not self._closed.wait(_HEARTBEAT_POLL):
            if (self._last_note or self._tasks) and self._clock() - self._printed_at >= _HEARTBEAT_SECONDS:
                self._print(self._current(self._clock()), log=False)

    def _current(self, now: float) -> str:
        """The innermost task and its position; without one, the last note and the time since."""
        if tasks := self._tasks[-1:]:
            return f"{tasks[0].what}: {tasks[0].position(now)}"
        return f"{self._last_note} ({as_duration(now - self._noted_at)} so far)"

    @property
    def _part(self) -> Path:
        assert self._file is not None
        return self._file.with_name(f".{self._file.name}.part")

    def _write_file(self, now: float) -> None:
        if self._file is None:
            return
        self._filed_at = now
        try:
            self._part.write_text(json.dumps({"note": self._last_note, "step": self._current(now)}), encoding="utf-8")
            self._part.replace(self._file)
        except OSError:  # a full disk must not end a run for the sake of its progress
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            self._file = None

    def _print(self, text: str, *, style: str | None = None, screen: bool = True, log: bool = True) -> None:
        text = escape_controls(text)
        if screen:
            self._printed_at = self._clock()
        if screen and not self._silent:
            self._show(text, style)
        if log and self._log is not None:
            try:
                print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", file=self._log)
            except OSError:  # a full disk must not end a run for the sake of its log
                self._log = None

    def _show(self, text: str, style: str | None) -> None:
        try:
            if self._draws:
                self._console.print(text, style=style, markup=False, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)
        except OSError:  # full, or nobody reads it: that must not end a run for the sake of its messages
            self._silent = True
            drop_stream(self._stream)


def _figure_texts(figures: dict[str, float]) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in figures.items()
    ]


def _rate(per_second: float, unit: str) -> str:
    """``285 img/s``, or ``4.8 s/img`` where less than one is done in a second."""
    if per_second < 1:
        return f"{1 / per_second:.3g} s/{unit}"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 100 else f"{per_second:.3g} {unit}/s"
