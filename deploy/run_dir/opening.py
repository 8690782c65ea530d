"""Taking up a run: alone, to write it, or to look at it only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimsight.compress.disk import make_folder
from slimsight.compress.errors import RunError
from slimsight.compress.untrusted import printable, strays

from .failures import translated
from .lock import held
from .places import MARKER
from .run import RunDir

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
        stray = next(strays(root), None)
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
