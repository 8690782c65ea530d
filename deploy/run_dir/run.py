"""The stages of a run: begun, finished, and looked up again."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slimsight.compress.errors import Damaged, RunError
from slimsight.compress.files.atomic import make_folder, remove, sync_folder
from slimsight.compress.files.sealed import read_sealed, sha256_of_file
from slimsight.compress.files.untrusted import printable, special_files

from .lock import held, holder
from .places import MARKER, Places, is_stage, translated
from .records import RECORD, StageRecord, check_finite, read_record, write_record

RECIPE, REPORT = "recipe", "report"
"""Recorded like stages: the recipe's file, and the report in all its forms with the stages that it is of."""

_DROPPED = "dropped.json"  # what a record is called while the files that it names are removed


class RunDir(Places):
    """One run. Made by ``open_run`` to write it or ``read_run`` to look at it."""

    def __init__(self, root: Path, *, writable: bool) -> None:
        super().__init__(root)
        self._writable = writable

    def begin(self, name: str) -> Path:
        """An empty folder for stage ``name``: what an earlier or a killed run left there is removed."""
        assert self._writable
        place = self.stage_dir(name)
        with translated(self.root):
            # First what says that the stage holds: a kill in between must not leave a record without files.
            remove(place / RECORD)
            if place.exists():
                shutil.rmtree(place)
            make_folder(place)
        return place

    def forget(self, name: str) -> None:
        """Remove stage ``name`` with all the files it recorded, wherever they lie.

        First the record gets another name: after a kill in between the stage is not done, but its files can still be
        found, and the next call removes them.
        """
        assert self._writable
        record, dropped = self.stage_dir(name) / RECORD, self.stage_dir(name) / _DROPPED
        with translated(self.root):
            if record.exists():
                record.replace(dropped)
                sync_folder(dropped.parent)
            for file in self._named_in(dropped):
                (self.root / file).unlink(missing_ok=True)
            dropped.unlink(missing_ok=True)

    def unrecord(self, name: str) -> None:
        """Stage ``name`` is not done any more; its files stay, to be written anew."""
        assert self._writable
        with translated(self.root):
            remove(self.stage_dir(name) / RECORD)

    def _named_in(self, dropped: Path) -> list[str]:
        try:
            found = StageRecord.model_validate(read_sealed(dropped, older=True))
        except (Damaged, OSError, ValidationError):
            return []
        return list(found.files)

    def finish(
        self,
        name: str,
        fingerprint: str,
        seconds: float,
        metrics: Mapping[str, Any],
        files: Iterable[Path],
        inputs: Mapping[str, str] | None = None,
    ) -> StageRecord:
        """Record that stage ``name`` is done, last of all: its ``files``, anywhere in the run directory, are synced.

        Args:
            inputs: ``content`` of the records of the stages that it needs.

        Raises:
            PruningError: a figure is NaN or infinite: the stage did not converge.
        """
        assert self._writable
        check_finite(name, metrics)
        places = {path.relative_to(self.root).as_posix(): path for path in files}
        record = StageRecord(
            fingerprint=fingerprint,
            seconds=seconds,
            metrics=dict(metrics),
            files={name: path.stat().st_size for name, path in places.items()},
            sha256={name: sha256_of_file(path) for name, path in places.items()},
            inputs=dict(inputs or {}),
        )
        write_record(self.stage_dir(name), record)
        return record

    def record(self, name: str) -> StageRecord | None:
        """What stage ``name`` recorded when it finished; None when it did not, or a file is not of its size."""
        try:
            record = read_record(self.stage_dir(name))
        except Damaged:
            return None
        sized = record is not None and all(_has_size(self.root / file, size) for file, size in record.files.items())
        return record if sized else None

    def done(self, name: str, fingerprint: str) -> StageRecord | None:
        """The record of stage ``name`` if it still holds: same fingerprint, every file there as it was written."""
        record = self.record(name)
        if record is None or record.fingerprint != fingerprint:
            return None
        return record if self.damage(name) is None else None

    def damage(self, name: str) -> Damaged | None:
        """Which file of stage ``name``, its record included, is not what was written; None of a stage not done."""
        try:
            record = read_record(self.stage_dir(name))
            return None if record is None else record.damage(self.root)
        except Damaged as damage:
            return damage
        except OSError as error:
            return Damaged(Path(error.filename), f"cannot be read: {error.strerror}")

    def recorded(self) -> tuple[str, ...]:
        """The stages that should be whole: those of the report with the report and the recipe, else all that are there.

        What an earlier recipe left is not this run's: nothing reads it, and ``slimsight run`` does not rebuild it.
        """
        report = self.record(REPORT)
        if report is not None:
            return (RECIPE, *report.inputs, REPORT)
        there = (self.root / "stages").glob("*")
        return tuple(sorted(path.name for path in there if is_stage(path.name) and (path / RECORD).exists()))

    def check(self) -> None:
        """Read everything that the run recorded; while a process writes it, nothing: files come and go then.

        Raises:
            Damaged: a file is not what was written; says which, and what rebuilds it.
        """
        if self.writer() is not None:
            return
        for name in self.recorded():
            damage = self.damage(name)
            if damage is None and not (self.stage_dir(name) / RECORD).exists():
                damage = Damaged(self.stage_dir(name) / RECORD, "is gone")
            if damage is not None and self.writer() is None:
                raise damage.remedied(
                    f"'slimsight run RECIPE --out {self.root}' rebuilds it and keeps what is whole"
                ) from damage

    def writer(self) -> int | None:
        """The number of the process that writes this run now, or None."""
        return holder(self.root)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


_LEFTOVER = re.compile(r"\..+\.[0-9]+\.part")  # the name that atomic_path writes to


@contextmanager
def open_run(path: Path) -> Iterator[RunDir]:
    """Make ``path`` or take up the run in it, alone: no other process can open it until the block ends.

    Raises:
        RunError: another process holds it, it holds something that is not a run or links that lead out of it, or
            it cannot be written.
    """
    root = path.absolute()
    with translated(root):
        make_folder(root)
        found = sorted(entry.name for entry in root.iterdir())
    if found and not is_run(root):
        some = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise RunError(f"{path} holds other files ({some}) and no run; choose a new or empty folder with --out")
    _refuse_strays(root)
    with held(root, path):
        with translated(root):
            _remove_leftovers(root)
        yield RunDir(root, writable=True)


def read_run(path: Path, *, whole: bool = True) -> RunDir:
    """The run in ``path``, to look at only: nothing is locked or changed.

    Args:
        whole: read every file that it recorded, and refuse the run where one is damaged (see ``RunDir.check``).

    Raises:
        RunError: there is no run, or links in it lead out of it.
        Damaged: a file of it is not what was written.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RunError(f"{path} {what}; give the folder of a run (the --out of 'slimsight run')")
    if not is_run(path):
        raise RunError(f"{path} is not the folder of a run: it holds no {MARKER} and no recipe.yaml with stages")
    _refuse_strays(path)
    run = RunDir(path.absolute(), writable=False)
    if whole:
        run.check()
    return run


def _refuse_strays(root: Path) -> None:
    """What is written, read or removed by way of a link would lie outside of the run; a pipe would be waited for."""
    with translated(root):
        stray = next(special_files(root), None)
    if stray is not None:
        place, kind = stray
        raise RunError(
            f"{printable(str(place), 500)} is {kind}, and a run holds files and folders: replace it, or do not use the "
            "run"
        )


def is_run(root: Path) -> bool:
    """Whether the folder ``root`` holds a run, finished or not."""
    return (root / MARKER).is_file() or ((root / "recipe.yaml").is_file() and (root / "stages").is_dir())


def _remove_leftovers(root: Path) -> None:
    """Remove what ``atomic_path`` could not: the temporary files of processes that were killed."""
    for folder, _, names in os.walk(root):
        for name in names:
            if _LEFTOVER.fullmatch(name):
                (Path(folder) / name).unlink(missing_ok=True)
