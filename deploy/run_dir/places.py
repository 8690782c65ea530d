"""Where everything of a run is."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimsight.compress.errors import RunError
from slimsight.compress.files.atomic import DISK_FULL, disk_full_reason

MARKER = ".slimsight"
"""Marks a folder as ours; whoever writes the run holds its lock, and it then holds the process number."""


def is_stage(name: str) -> bool:
    """Whether a stage may be called ``name``: it is the name of its folder."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


class Places:
    """The files and folders of the run in ``root``; they need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

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
    def report_html(self) -> Path:
        return self.root / "report.html"

    @property
    def export_json(self) -> Path:
        """What ``slimsight export`` wrote, where it was not told another place."""
        return self.root / "export" / "export.json"

    def stage_dir(self, name: str) -> Path:
        """The folder of stage ``name``."""
        assert is_stage(name), name
        return self.root / "stages" / name


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the OSErrors of a block into one sentence about ``path``, a run's folder or a place in it."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            remedy = f"{disk_full_reason(error)}; free some space or choose another --out"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = "a file stands in its place; choose another --out"
        else:
            remedy = f"{error.strerror or error}; choose a folder that you may write with --out"
        raise RunError(f"cannot use {path} as the folder of a run: {remedy}") from error
