"""The stages of a run: begun, finished, and looked up again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compress.files import write_text
from compress.untrusted import open_limited
from export.checksum import check_sha256, sha256_of

from .failures import translated
from .lock import process_in, try_lock
from .places import MARKER, Places
from .records import ARTEFACTS, StageRecord, check_finite, read_record


class RunDir(Places):
    """One run. Made by ``open_run`` to write it or ``read_run`` to look at it."""

    def __init__(self, root: Path, *, writable: bool) -> None:
        super().__init__(root)
        self._writable = writable

    def begin(self, name: str) -> Path:
        """An empty folder for stage ``name``: what an earlier or a killed run left there is removed."""
        assert self._writable
        place = self.stage_dir(name)
        with translated(place):
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
        with translated(self.root):
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
        check_finite(name, metrics)
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
        return read_record(self.stage_dir(name) / "done.json")

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
            with open_limited(self.root / MARKER, 1024) as file:
                return None if try_lock(file) else process_in(file)
        except OSError:  # no marker, or not ours to lock: nobody who could write it is known
            return None
