"""The run directory: who may write it, where everything is, and which stages still hold."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import Field, ValidationError

from compress.config import Section
from compress.errors import PruningError, RunError
from compress.files import NO_ROOM, no_room, write_text
from export.checksum import check_sha256, sha256_of

MARKER = ".slimsight"
"""Marks a folder as ours; whoever writes the run holds its lock, and it then holds the process number."""

ARTEFACTS = (".onnx", ".pt2")
"""Files that leave the run: their content is recorded, not only their size."""

_LEFTOVER = re.compile(r"\..+\.[0-9]+\.part")  # the name that atomic_path writes to


class StageRecord(Section):
    """What ``done.json`` holds. ``files``: size in bytes by path below the run directory; ``sha256``: of artefacts."""

    fingerprint: str
    seconds: float
    metrics: dict[str, Any]
    files: dict[str, int]
    sha256: dict[str, str] = Field(default_factory=dict)


class RunDir:
    """The places of one run. Made by ``open_run`` to write it or ``read_run`` to look at it."""

    def __init__(self, root: Path, *, writable: bool) -> None:
        self.root = root
        self._writable = writable

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def log(self) -> Path:
        return self.root / "run.log"

    @property
    def original_onnx(self) -> Path:
        return self.root / "original.onnx"

    @property
    def slim(self) -> Path:
        return self.root / "slim"

    @property
    def slim_model(self) -> Path:
        return self.slim / "model.safetensors"

    @property
    def plan(self) -> Path:
        return self.slim / "plan.json"

    @property
    def slim_explainer(self) -> Path:
        return self.slim / "explainer.safetensors"

    @property
    def slim_onnx(self) -> Path:
        return self.slim / "model.onnx"

    @property
    def slim_pt2(self) -> Path:
        return self.slim / "model.pt2"

    @property
    def masked_onnx(self) -> Path:
        return self.root / "dynamic" / "masked.onnx"

    @property
    def routed_onnx(self) -> Path:
        return self.root / "dynamic" / "routed.onnx"

    @property
    def checkpoints(self) -> Path:
        """Of stages that were interrupted; each in a folder of its own."""
        return self.root / "checkpoints"

    @property
    def report_json(self) -> Path:
        return self.root / "report.json"

    @property
    def report_md(self) -> Path:
        return self.root / "report.md"

    @property
    def export_json(self) -> Path:
        """What ``slimsight export`` wrote, where it was not told another place."""
        return self.root / "export" / "export.json"

    def stage_dir(self, name: str) -> Path:
        """The folder of stage ``name``; it need not exist."""
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
        return self.root / "stages" / name

    def begin(self, name: str) -> Path:
        """An empty folder for stage ``name``: what an earlier or a killed run left there is removed."""
        assert self._writable
        place = self.stage_dir(name)
        with _translated(place):
            # First what says that the stage holds: a kill in between must not leave a record without files.
            (place / "done.json").unlink(missing_ok=True)
            if place.exists():
                shutil.rmtree(place)
            place.mkdir(parents=True)
        return place

    def forget(self, name: str) -> None:
        """Remove stage ``name`` with all the files it recorded, wherever they lie."""
        assert self._writable
        record = self._recorded(name)
        with _translated(self.root):
            # Files first: after a kill in between, what is left of the record lacks them and does not hold.
            for file in record.files if record is not None else ():
                (self.root / file).unlink(missing_ok=True)
            (self.stage_dir(name) / "done.json").unlink(missing_ok=True)

    def finish(
        self, name: str, fingerprint: str, seconds: float, metrics: Mapping[str, Any], files: Iterable[Path]
    ) -> StageRecord:
        """Record that stage ``name`` is done; ``files`` lie anywhere in the run directory.

        Raises:
            PruningError: a figure is NaN or infinite: the stage did not converge.
        """
        assert self._writable
        if wrong := next(_not_finite(metrics), None):
            raise PruningError(f"stage '{name}' ended with {wrong}: it did not converge; lower its lr in the recipe")
        sizes = {path.relative_to(self.root).as_posix(): path.stat().st_size for path in files}
        sums = {name: sha256_of(self.root / name) for name in sizes if name.endswith(ARTEFACTS)}
        record = StageRecord(fingerprint=fingerprint, seconds=seconds, metrics=dict(metrics), files=sizes, sha256=sums)
        write_text(self.stage_dir(name) / "done.json", record.model_dump_json(indent=2) + "\n")
        return record

    def record(self, name: str) -> StageRecord | None:
        """What stage ``name`` recorded when it finished; None when it did not, or a file is not whole."""
        record = self._recorded(name)
        try:
            whole = record is not None and all((self.root / f).stat().st_size == n for f, n in record.files.items())
        except OSError:
            return None
        return record if whole else None

    def _recorded(self, name: str) -> StageRecord | None:
        try:
            return StageRecord.model_validate_json((self.stage_dir(name) / "done.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def done(self, name: str, fingerprint: str) -> StageRecord | None:
        """The record of stage ``name`` if it still holds: same fingerprint, every file there as it was written."""
        record = self.record(name)
        if record is None or record.fingerprint != fingerprint:
            return None
        same = all(sha256_of(self.root / file) == found for file, found in record.sha256.items())
        return record if same else None

    def check_artefacts(self, name: str) -> None:
        """Refuse artefacts of stage ``name`` that are not what it exported (cut off, or changed since).

        Raises:
            ExportError: the file is named.
        """
        record = self._recorded(name)
        for file, found in record.sha256.items() if record is not None else ():
            check_sha256(self.root / file, found)

    def writer(self) -> int | None:
        """The number of the process that writes this run now, or None."""
        try:
            with (self.root / MARKER).open("rb") as file:
                if _try_lock(file):
                    return None
                return _process_in(file)
        except OSError:  # no marker, or not ours to lock: nobody who could write it is known
            return None


@contextmanager
def open_run(path: Path) -> Iterator[RunDir]:
    """Make ``path`` or take up the run in it, alone: no other process can open it until the block ends.

    Raises:
        RunError: another process holds it, it holds something that is not a run, or it cannot be written.
    """
    root = path.absolute()
    with _translated(root):
        root.mkdir(parents=True, exist_ok=True)
        found = sorted(entry.name for entry in root.iterdir())
    if found and not _is_run(root):
        some = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise RunError(f"{path} holds other files ({some}) and no run; choose a new or empty folder with --out")
    with _translated(root):
        # Append: neither truncates another process's number nor fails when the file is new.
        # Unbuffered: on a full disk nothing may be left to write when the file is closed.
        file = (root / MARKER).open("a+b", buffering=0)
    with file:
        _lock(file, path)
        try:
            with _translated(root):
                file.truncate(0)
                file.write(str(os.getpid()).encode())
                _remove_leftovers(root)
            yield RunDir(root, writable=True)
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # said here, because a forked child may hold the same lock


def read_run(path: Path) -> RunDir:
    """The run in ``path``, to look at only: nothing is locked or changed.

    Raises:
        RunError: there is no run.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RunError(f"{path} {what}; give the folder of a run (the --out of 'slimsight run')")
    if not _is_run(path):
        raise RunError(f"{path} is not the folder of a run: it holds no {MARKER} and no recipe.yaml with stages")
    return RunDir(path.absolute(), writable=False)


def _not_finite(value: Any, where: str = "") -> Iterator[str]:
    """``name = nan`` for every figure in ``value`` that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} = {value}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{where}.{index}")


def _is_run(root: Path) -> bool:
    return (root / MARKER).is_file() or ((root / "recipe.yaml").is_file() and (root / "stages").is_dir())


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(file: IO[bytes], path: Path) -> None:
    for _ in range(4):  # a `status` that looks right now holds the lock for microseconds
        with _translated(path):
            if _try_lock(file):
                return
        time.sleep(0.05)
    number = _process_in(file)
    who = f"process {number}" if number else "another process"
    raise RunError(f"{path} is in use by {who}; wait until it ends (or stop it), or choose another --out")


def _process_in(file: IO[bytes]) -> int | None:
    file.seek(0)
    text = file.read(20)
    return int(text) if text.isdigit() else None


def _remove_leftovers(root: Path) -> None:
    """Remove what ``atomic_path`` could not: the temporary files of processes that were killed."""
    for folder, _, names in os.walk(root):
        for name in names:
            if _LEFTOVER.fullmatch(name):
                (Path(folder) / name).unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            remedy = f"{no_room(error)}; free some space or choose another --out"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = "a file stands in its place; choose another --out"
        else:
            remedy = f"{error.strerror or error}; choose a folder that you may write with --out"
        raise RunError(f"cannot use {path} as the folder of a run: {remedy}") from error
