"""A run directory, opened to write or to read: its stages are begun, recorded when finished, and looked up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slimsight.compress.errors import Damaged, RunError
from slimsight.compress.files.atomic import make_folder, remove, sync_folder
from slimsight.compress.files.sealed import read_sealed, sha256_of_file
from slimsight.compress.files.untrusted import printable, special_files

from .lock import lock_holder, run_lock
from .paths import MARKER, STAGE_FILES, RunPaths, is_stage, run_dir_errors
from .records import FINGERPRINT_VERSION, RECORD, StageRecord, check_finite, read_record, write_record

RECIPE, REPORT = "recipe", "report"
"""Recorded like stages: the recipe's file; the report in all its formats, with its stages as inputs."""

_DROPPED = "dropped.json"  # name of a record while the files that it lists are removed


class RunDir(RunPaths):
    """One run directory. Opened by ``open_run`` to write, by ``read_run`` to read."""

    def __init__(self, root: Path, *, writable: bool) -> None:
        super().__init__(root)
        self._writable = writable

    def begin(self, name: str) -> Path:
        """Make the folder of stage ``name``, without the files that an earlier or a killed run wrote into it.

        Raises:
            RunError: something in it is not slimsight's and has the name of what the stage writes.
        """
        assert self._writable
        folder = self.stage_dir(name)
        with run_dir_errors(self.root):
            written = {*STAGE_FILES.get(name, ()), _DROPPED}
            for record in (folder / RECORD, folder / _DROPPED):
                written |= {Path(file).name for file in _listed_files(record) if (self.root / file).parent == folder}
            # The record first: a kill in between must not leave a record without files.
            remove(folder / RECORD)
            for file in sorted(written):
                (folder / file).unlink(missing_ok=True)
            make_folder(folder)
        return folder

    def forget(self, name: str) -> None:
        """Remove the record of stage ``name`` and all the files that it lists, in whatever folder.

        The record is renamed first: after a kill in between the stage is not done, but its files are still listed,
        and the next call removes them.
        """
        assert self._writable
        record, dropped = self.stage_dir(name) / RECORD, self.stage_dir(name) / _DROPPED
        with run_dir_errors(self.root):
            if record.exists():
                record.replace(dropped)
                sync_folder(dropped.parent)
            for file in _listed_files(dropped):
                (self.root / file).unlink(missing_ok=True)
            dropped.unlink(missing_ok=True)

    def unrecord(self, name: str) -> None:
        """Remove the record of stage ``name``; its files stay, to be overwritten."""
        assert self._writable
        with run_dir_errors(self.root):
            remove(self.stage_dir(name) / RECORD)

    def finish(
        self,
        name: str,
        fingerprint: str,
        seconds: float,
        metrics: Mapping[str, Any],
        files: Iterable[Path],
        inputs: Mapping[str, str] | None = None,
    ) -> StageRecord:
        """Write the record of stage ``name``, after its ``files``, anywhere in the run directory, were synced.

        Args:
            inputs: ``content`` of the records of the stages that it needs.

        Raises:
            TrainingError: a metric is NaN or infinite: the stage diverged.
        """
        assert self._writable
        check_finite(name, metrics)
        paths = {path.relative_to(self.root).as_posix(): path for path in files}
        record = StageRecord(
            fingerprint=fingerprint,
            seconds=seconds,
            metrics=dict(metrics),
            files={name: path.stat().st_size for name, path in paths.items()},
            sha256={name: sha256_of_file(path) for name, path in paths.items()},
            inputs=dict(inputs or {}),
            fingerprint_version=FINGERPRINT_VERSION,
        )
        write_record(self.stage_dir(name), record)
        return record

    def record(self, name: str) -> StageRecord | None:
        """The record of stage ``name``; None if it is not done, or a file has not the recorded size."""
        try:
            record = read_record(self.stage_dir(name))
        except Damaged:
            return None
        sized = record is not None and all(_has_size(self.root / file, size) for file, size in record.files.items())
        return record if sized else None

    def valid_record(self, name: str, fingerprint: str) -> StageRecord | None:
        """The record of stage ``name`` if it has this ``fingerprint`` and no file is damaged."""
        record = self.record(name)
        if record is None or record.fingerprint != fingerprint:
            return None
        return record if self.damage(name) is None else None

    def damage(self, name: str) -> Damaged | None:
        """The first damaged file of stage ``name``, its record included; None if there is none or it is not done."""
        try:
            record = read_record(self.stage_dir(name))
            return None if record is None else record.damage(self.root)
        except Damaged as damage:
            return damage
        except OSError as error:
            return Damaged(Path(error.filename), f"cannot be read: {error.strerror}")

    def stages_to_verify(self) -> tuple[str, ...]:
        """The recipe, the stages of the report and the report; without a report, all stages that have a record.

        Stages of an earlier recipe are left out: nothing reads them, and ``slimsight run`` does not rebuild them.
        """
        report = self.record(REPORT)
        if report is not None:
            return (RECIPE, *report.inputs, REPORT)
        folders = (self.root / "stages").glob("*")
        return tuple(sorted(path.name for path in folders if is_stage(path.name) and (path / RECORD).exists()))

    def check(self) -> None:
        """Read all recorded files and compare checksums; skipped while a process writes the run.

        Raises:
            Damaged: a file is not what was written; the message says what rebuilds it.
        """
        if self.writer() is not None:
            return
        for name in self.stages_to_verify():
            damage = self.damage(name)
            if damage is None and not (self.stage_dir(name) / RECORD).exists():
                damage = Damaged(self.stage_dir(name) / RECORD, "is gone")
            if damage is not None and self.writer() is None:
                raise damage.remedied(
                    f"'slimsight run RECIPE --out {self.root}' rebuilds it and keeps what is undamaged"
                ) from damage

    def check_recorded(self, *files: Path) -> None:
        """Refuse ``files`` as evidence unless the report's record, or that of a stage it describes, has their checksum.

        Raises:
            RunError: a process writes the run, it has no record of its report, the report is of other results than
                those that lie there, or a file is in none of its records.
            Damaged: a file is not what was written.
        """
        remedy = f"'slimsight run RECIPE --out {self.root}' writes what is missing and keeps the rest"
        if (writer := self.writer()) is not None:
            raise RunError(f"process {writer} is writing {self.root}: wait until it has finished")
        report = self.record(REPORT)
        if report is None:
            raise RunError(
                f"{self.root} has no record of its report ({self.stage_dir(REPORT) / RECORD}), so nothing shows that "
                f"its figures are what the run measured: {remedy}"
            )
        self.check()
        recorded = set(report.sha256)
        for name, content in report.inputs.items():
            stage = self.record(name)
            if stage is None or stage.content != content:
                raise RunError(f"the report of {self.root} is not of the stage '{name}' that lies there: {remedy}")
            recorded |= stage.sha256.keys()
        for file in files:
            if file.relative_to(self.root).as_posix() not in recorded:
                raise RunError(f"{file} is in no record of the run, so nothing shows what made it: {remedy}")

    def writer(self) -> int | None:
        """The pid of the process that writes this run now, or None."""
        return lock_holder(self.root)


def _listed_files(record: Path) -> list[str]:
    """The files that a record lists; none where it is missing or damaged."""
    try:
        return list(StageRecord.model_validate(read_sealed(record, older=True)).files)
    except (Damaged, OSError, ValidationError):
        return []


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


_TEMPORARY_FILE = re.compile(r"\..+\.[0-9]+\.part")  # the name that atomic_path writes to


@contextmanager
def open_run(path: Path) -> Iterator[RunDir]:
    """Create the run directory ``path``, or resume the run in it, and hold its lock until the block ends.

    Raises:
        RunError: another process holds its lock, it contains other files and no run, or links that lead out of it, or
            it is not writable.
    """
    root = path.absolute()
    with run_dir_errors(root):
        make_folder(root)
        names = sorted(entry.name for entry in root.iterdir())
    if names and not is_run(root):
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise RunError(f"{path} contains other files ({listed}) and no run; choose a new or empty folder with --out")
    _refuse_special_files(root)
    with run_lock(root, path):
        with run_dir_errors(root):
            _remove_temporary_files(root)
        yield RunDir(root, writable=True)


def read_run(path: Path, *, verify: bool = True) -> RunDir:
    """Open the run in ``path`` to read; nothing is locked or changed.

    Args:
        verify: compare the checksums of all recorded files (see ``RunDir.check``).

    Raises:
        RunError: there is no run, or links in it lead out of it.
        Damaged: a file of it is not what was written.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RunError(f"{path} {what}; give the folder of a run (the --out of 'slimsight run')")
    if not is_run(path):
        raise RunError(f"{path} is not the folder of a run: it has no {MARKER} and no recipe.yaml with stages")
    _refuse_special_files(path)
    run = RunDir(path.absolute(), writable=False)
    if verify:
        run.check()
    return run


def _refuse_special_files(root: Path) -> None:
    """Refuse links and pipes: a link may lead out of the run directory, and opening a pipe may block."""
    with run_dir_errors(root):
        special = next(special_files(root), None)
    if special is not None:
        path, kind = special
        raise RunError(
            f"{printable(str(path), 500)} is {kind}, and a run has only files and folders: replace it, or do not use "
            "the run"
        )


def is_run(root: Path) -> bool:
    """Whether the folder ``root`` contains a run, finished or not."""
    if (root / MARKER).is_file():
        return True
    return (root / "recipe.yaml").is_file() and any((root / "stages").glob(f"*/{RECORD}"))


def _remove_temporary_files(root: Path) -> None:
    """Remove the temporary files that ``atomic_path`` left in processes that were killed."""
    for folder, _, names in os.walk(root):
        for name in names:
            if _TEMPORARY_FILE.fullmatch(name):
                (Path(folder) / name).unlink(missing_ok=True)
