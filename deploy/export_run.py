"""The models of a finished run in the formats that a target takes, each proven against PyTorch on the run's images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from compress.errors import ConfigError, RunError
from compress.files import write_json
from compress.progress import SILENT, Progress
from compress.registry import nearest
from export.checksum import sha256_of
from export.metadata import read_metadata
from export.prove import BATCHES, Artifact, Evidence, prove
from export.routed_onnx import export_masked, export_routed
from export.to_onnx import export_onnx, verify_shapes
from export.to_torch_export import export_pt2

from .machine import device_name, versions
from .recipe import load_recipe
from .run_dir import read_run
from .session import Session, default_cache

Format = Literal["onnx", "pt2"]
FORMATS = get_args(Format)

IMAGES = 500
"""Validation images, spread over the classes, that artefacts are compared on."""

_EXAMPLES = 2


@dataclass(frozen=True)
class Batch:
    """Images per call: the fewest, the number to tune for, and the most."""

    min: int
    opt: int
    max: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Each size once."""
        return tuple(sorted({self.min, self.opt, self.max}))


@dataclass(frozen=True)
class Exported:
    """What ``export_run`` wrote and found; ``skipped``: what was asked for and is not to be had, with the reason."""

    folder: Path
    artifacts: tuple[Artifact, ...]
    evidence: Evidence
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def json(self) -> Path:
        """Where its figures are."""
        return self.folder / "export.json"


def read_choices(given: str, allowed: Sequence[str], option: str) -> tuple[str, ...]:
    """``onnx,pt2`` -> its words, each once.

    Raises:
        ConfigError: there is none, or one that is not allowed.
    """
    words = tuple(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))
    wrong = next((word for word in words if word not in allowed), None)
    if wrong is not None or not words:
        hint = "" if wrong is None else nearest(wrong, list(allowed))
        raise ConfigError(f"{option} is '{given}'{hint}: choose from {', '.join(allowed)}, separated by commas")
    return words


def read_batch(given: str | None) -> Batch | None:
    """``1:8:32`` or ``8`` -> the batch sizes.

    Raises:
        ConfigError: it is something else.
    """
    if given is None:
        return None
    parts = given.split(":")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(numbers) == len(parts) == 1:
        numbers *= 3
    if len(numbers) != 3 or len(parts) not in (1, 3) or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise ConfigError(
            f"--batch is '{given}': give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, e.g. 1:8:32, or one number"
        )
    return Batch(*numbers)


def export_run(
    path: Path,
    *,
    formats: Sequence[str],
    opset: int | None = None,
    batch: Batch | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Export the slim model of a finished run, and its dynamic variant where it has one; prove what can run here.

    Args:
        path: the run's folder.
        formats: of ``FORMATS``.
        opset: ONNX's operator set; None: the recipe's.
        batch: batch sizes to compare at; None: ``prove.BATCHES``.
        out: where to; None: ``export`` in the run's folder.
        cache: folder of decoded images (see ``default_cache``).

    Raises:
        RunError: there is no run, it is being written, or it is not finished.
        ExportError: the run's own artefacts are not what it exported, or the model has no such form.
    """
    run = read_run(path)
    if (writer := run.writer()) is not None:
        raise RunError(f"process {writer} is working on {path}: wait until it ends, then export")
    recipe = load_recipe(run.recipe)
    stages = ("finetune", "dynamic") if recipe.dynamic.enabled else ("finetune",)
    unfinished = next((stage for stage in stages if run.record(stage) is None), None)
    if unfinished is not None:
        raise RunError(
            f"{path} is not finished (stage '{unfinished}' is not done): complete it with 'slimsight run', then export"
        )
    for stage in ("export", "dynamic_export"):
        run.check_artefacts(stage)
    folder = out or run.export_json.parent
    # Figures of other files must not stand beside these, whatever happens on the way.
    (folder / "export.json").unlink(missing_ok=True)
    session = Session(recipe, run, progress, cache or default_cache())
    files = _Writer(session, folder, opset or recipe.export.opset, batch.sizes if batch else BATCHES)
    artifacts = list(files.slim(formats))
    skipped: list[tuple[str, str]] = []
    if recipe.dynamic.enabled:
        artifacts += files.dynamic(formats)
        if "pt2" in formats:
            skipped.append(("dynamic model as pt2", "a traced graph computes every channel; ONNX has the routed form"))
    images = np.asarray(session.some_images(IMAGES))
    evidence = prove(artifacts, images, fp32=recipe.export.tolerance, progress=progress)
    found = Exported(folder, tuple(artifacts), evidence, tuple(skipped))
    write_json(found.json, _to_dict(found, len(images)))
    return found


class _Writer:
    """Writes the files of one run."""

    def __init__(self, session: Session, folder: Path, opset: int, batches: tuple[int, ...]) -> None:
        self.session, self.folder, self.opset, self.batches = session, folder, opset, batches
        self.example = session.some_images(_EXAMPLES)

    def slim(self, formats: Sequence[str]) -> Iterator[Artifact]:
        model, _ = self.session.slim()
        if "onnx" in formats:
            path = self.folder / "model.onnx"
            export_onnx(model, self.example, path, opset=self.opset, about=self.session.about("finetune"))
            verify_shapes(path, model)
            yield Artifact(path, path.name, model, batches=self.batches)
        if "pt2" in formats:
            path = self.folder / "model.pt2"
            export_pt2(model, self.example, path)
            yield Artifact(path, path.name, model, "pt2", batches=self.batches)

    def dynamic(self, formats: Sequence[str]) -> Iterator[Artifact]:
        if "onnx" not in formats:
            return
        learned = self.session.run.record("dynamic")
        assert learned is not None, "export_run has looked"
        model = self.session.dynamic()
        about = self.session.about("dynamic", macs_mean=learned.metrics["macs_mean"])
        masked, routed = self.folder / "masked.onnx", self.folder / "routed.onnx"
        export_masked(model, self.example, masked, opset=self.opset, about=about)
        yield Artifact(masked, masked.name, model, batches=self.batches)
        route = self.session.recipe.dynamic.route
        export_routed(model, self.example, routed, route=route, opset=self.opset, about=about)
        yield Artifact(routed, routed.name, model, "routed", batches=(1,))


def _to_dict(found: Exported, images: int) -> dict[str, Any]:
    """export.json: every file with its checksum, what it was compared in, and what it could not be."""
    files = []
    for artifact in found.artifacts:
        rows = [row.to_dict() for row in found.evidence.rows if row.artifact == artifact.name]
        absent = [item for item in found.evidence.absent if item.artifact == artifact.name]
        metadata = dict(read_metadata(artifact.path).all) if artifact.path.suffix == ".onnx" else None
        files.append(
            {
                "file": artifact.path.name,
                "kind": artifact.kind,
                "precision": artifact.precision,
                "size_bytes": artifact.path.stat().st_size,
                "sha256": sha256_of(artifact.path),
                "metadata": metadata,
                "parity": rows,
                "not_run": [{"runtime": item.runtime, "reason": item.reason} for item in absent],
            }
        )
    return {
        "schema": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": device_name(),
        "images": images,
        "passed": found.evidence.passed,
        "files": files,
        "skipped": [{"what": what, "reason": reason} for what, reason in found.skipped],
    }
