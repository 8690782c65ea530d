"""Paths of the files and folders in a run directory."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slimsight.compress.errors import RunError
from slimsight.compress.files.atomic import DISK_FULL, disk_full_reason

MARKER = ".slimsight"
"""Marks a folder as a run directory; it is also the lock file, with the pid of the process that writes the run."""


STAGE_FILES: Mapping[str, tuple[str, ...]] = {
    "classifier": ("model.safetensors", "predictions.safetensors"),
    "predictor": ("predictor.safetensors",),
    "selector": ("selector.safetensors",),
    "targets": ("targets.safetensors",),
    "gates": ("scores.safetensors",),
    "surgery": ("plan.json",),
    "dynamic": ("model.safetensors",),
}
"""What stages write into their own folders beside their records; all else there is the user's, and stays."""


def is_stage(name: str) -> bool:
    """Whether ``name`` is a valid stage name, which is also the name of its folder."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


class RunPaths:
    """Paths of the files and folders of the run in ``root``; they need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def log(self) -> Path:
        return self.root / "run.log"

    @property
    def progress(self) -> Path:
        """Step and time left of a run in progress; there only while a process writes the run."""
        return self.root / "progress.json"

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
    def original_int8(self) -> Path:
        """Written to compare with: what INT8 costs the original."""
        return self.root / "original.int8.onnx"

    def slim_int8(self, form: str) -> Path:
        """The slim model in an INT8 form, ``u8`` or ``s8``."""
        return self.slim / ("model.int8.onnx" if form == "u8" else "model.int8.trt.onnx")

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
        """Checkpoints of interrupted stages, a folder for each stage."""
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
        """Result of ``slimsight export``, where no other output folder was given."""
        return self.root / "export" / "export.json"

    def stage_dir(self, name: str) -> Path:
        """The folder of stage ``name``."""
        assert is_stage(name), name
        return self.root / "stages" / name


@contextmanager
def run_dir_errors(path: Path) -> Iterator[None]:
    """Raise the OSErrors of a block as ``RunError``s about ``path``, a run directory or a file in it."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            remedy = f"{disk_full_reason(error)}; free some space or choose another --out"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = "a file of that name exists; choose another --out"
        else:
            remedy = f"{error.strerror or error}; choose a writable folder with --out"
        raise RunError(f"cannot use {path} as the folder of a run: {remedy}") from error
