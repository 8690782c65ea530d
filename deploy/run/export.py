"""``slimsight export``: a finished run's models in a target's formats, each compared with PyTorch on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from slimsight.compress.amounts import MOST_BATCH, read_count
from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files.atomic import remove
from slimsight.compress.files.sealed import sha256_of_file, write_sealed
from slimsight.compress.files.untrusted import printable
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.registry import nearest
from slimsight.export.config import LEAST_IMAGES, MOST_EPOCHS, Int8Config
from slimsight.export.engines.result import BatchProfile, EngineResult, Precision
from slimsight.export.int8.make import Int8Model
from slimsight.export.onnx_files.metadata import read_metadata
from slimsight.export.onnx_files.quantised import Method
from slimsight.export.parity.prove import Artifact, ParityEvidence, prove_parity
from slimsight.export.pt2.contents import read_pt2_metadata
from slimsight.export.pte.lower import Delegation

from ..host import check_batches_fit
from ..machine import device_name, versions
from ..run_dir import RunDir, read_run
from ..run_dir.allowed_code import load_run_recipe, remember_engine
from ..run_dir.exports import EXPORT_FILE
from ..settings.recipe import Recipe
from .export_files import FORMATS, PRECISIONS, Files
from .session import Session, writable_cache

__all__ = ["FORMATS", "PRECISIONS", "Exported", "export_run", "read_batch", "read_choices"]

IMAGES = 500
"""Number of validation images, spread over the classes, for comparing artefacts."""


@dataclass(frozen=True)
class Exported:
    """What ``export_run`` wrote and found.

    ``engines``: what was read back from each, by file name; ``skipped``: what was asked for and is not to be had here,
    with the reason; ``int8``: INT8 files with their proofs; ``delegations``: what ``.pte`` files run in XNNPACK.
    """

    folder: Path
    artifacts: tuple[Artifact, ...]
    evidence: ParityEvidence
    engines: Mapping[str, EngineResult]
    skipped: tuple[tuple[str, str], ...] = ()
    int8: tuple[Int8Model, ...] = ()
    delegations: Mapping[str, Delegation] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every file computes what it should, in every runtime here."""
        return self.evidence.passed and all(made.proof.passed for made in self.int8)

    @property
    def json(self) -> Path:
        """Path of export.json."""
        return self.folder / EXPORT_FILE


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


def read_batch(given: str | None) -> BatchProfile | None:
    """``1:8:32`` or ``8`` -> the batch sizes.

    Raises:
        ConfigError: it is something else.
    """
    if given is None:
        return None
    parts = given.split(":")
    numbers = [count for part in parts if (count := read_count(part, MOST_BATCH)) is not None]
    if len(numbers) == len(parts) == 1:
        numbers *= 3
    if len(numbers) != 3 or len(parts) not in (1, 3) or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise ConfigError(
            f"--batch is '{printable(given)}': give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX <= {MOST_BATCH:,}, e.g. "
            "1:8:32, or one number"
        )
    return BatchProfile(*numbers)


def export_run(
    path: Path,
    *,
    formats: Sequence[str],
    opset: int | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    batch: BatchProfile | None = None,
    out: Path | None = None,
    calibration: int | None = None,
    method: str | None = None,
    accuracy_control: Mapping[str, float | None] | None = None,
    qat_epochs: int | None = None,
    cache: Path | None = None,
    allow_code: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Export the slim model of a finished run, and its dynamic variant where it has one; prove what can run here.

    Args:
        path: the run's folder.
        formats: of ``FORMATS``.
        opset: ONNX's operator set; None: the recipe's.
        precisions: of ONNX files and engines.
        batch: images per call that engines take, and that artefacts are compared at; None: as each takes them.
        out: where to; None: ``export`` in the run's folder.
        calibration, method: images and method of INT8 files; None: as the recipe says.
        accuracy_control: fields of the recipe's ``export.int8.accuracy_control``; None: as the recipe says.
        qat_epochs: times through the training images, with rounding; None: as the recipe says.
        cache: folder of decoded images (see ``default_cache``).
        allow_code: build the run's model from its file although that was not run here (see ``allowed_code``).

    Raises:
        ConfigError: its model is code that was not run here, and is not allowed; or a file to write is there, and is
            no export's.
        RunError: there is no run, it is being written, or it is not finished.
        Damaged: a file of the run is not what it wrote.
        ExportError: the model has no such form.
    """
    run = read_run(path)
    if (writer := run.writer()) is not None:
        raise RunError(f"process {writer} is working on {path}: wait until it ends, then export")
    recipe = load_run_recipe(run, allow_code=allow_code, cache=cache)
    control = {name: value for name, value in (accuracy_control or {}).items() if value is not None}
    if "int8" not in precisions and ((calibration, method, qat_epochs) != (None, None, None) or control):
        raise ConfigError(
            "--calibration, --method, --agreement, --sqnr, --max-float-layers and --qat-epochs are of INT8 files: add "
            "int8 to --precision, or leave them out"
        )
    int8 = _int8_settings(recipe.export.int8, calibration, method, control, qat_epochs)
    _check_finished(run, recipe, path)
    session = Session(recipe, run, progress, cache or writable_cache())
    if batch is not None:
        check_batches_fit({"--batch": batch.max}, session.example.shape[1:])
    folder = out or run.export_json.parent
    files = Files(session, folder, opset or recipe.export.opset, formats, precisions, batch, int8)
    files.check_targets()
    # Figures of other files must not stand beside these, whatever happens on the way.
    remove(folder / EXPORT_FILE)
    artifacts = files.write()
    for name in files.engines:
        remember_engine(folder / name, session.cache)
    images = np.asarray(session.some_images(IMAGES))
    evidence = prove_parity(artifacts, images, fp32=recipe.export.tolerance, progress=progress)
    skipped, int8_models = tuple(files.skipped), tuple(files.int8_models)
    found = Exported(folder, tuple(artifacts), evidence, files.engines, skipped, int8_models, files.delegations)
    write_sealed(found.json, _to_dict(found, len(images)))
    return found


def _check_finished(run: RunDir, recipe: Recipe, path: Path) -> None:
    """Raise RunError for a run whose models are not there yet."""
    stages = ("finetune", "dynamic") if recipe.dynamic.enabled else ("finetune",)
    unfinished = next((stage for stage in stages if run.record(stage) is None), None)
    if unfinished is not None:
        raise RunError(
            f"{path} is not finished (stage '{unfinished}' is not done): complete it with 'slimsight run', then export"
        )


def _int8_settings(
    settings: Int8Config,
    calibration: int | None,
    method: str | None,
    control: Mapping[str, float],
    qat_epochs: int | None,
) -> Int8Config:
    """The recipe's settings with those of the command line.

    Raises:
        ConfigError: too few images, an unknown method, or a limit or a number of epochs out of range.
    """
    if calibration is not None and calibration < LEAST_IMAGES:
        raise ConfigError(f"--calibration is {calibration}: INT8 needs at least {LEAST_IMAGES} images")
    methods = get_args(Method)
    if method is not None and method not in methods:
        raise ConfigError(f"--method is '{method}'{nearest(method, list(methods))}: choose from {', '.join(methods)}")
    sqnr, most = control.get("sqnr_db"), control.get("max_float_layers")
    if sqnr is not None and not 0 < sqnr <= 100:
        raise ConfigError(f"--sqnr is {sqnr}: give a signal to noise ratio above 0 and up to 100 dB, e.g. 20")
    if most is not None and not 1 <= most <= 1000:
        raise ConfigError(f"--max-float-layers is {most}: give 1 to 1000 layers that may stay in FP32")
    controlled = settings.accuracy_control.model_copy(update=dict(control)) if control else None
    if controlled is not None and not controlled.limits:
        raise ConfigError("--max-float-layers is given without a limit to keep: give --agreement or --sqnr with it")
    if qat_epochs is not None and not 0 <= qat_epochs <= MOST_EPOCHS:
        raise ConfigError(f"--qat-epochs is {qat_epochs}: give 0 (no training) to {MOST_EPOCHS} epochs")
    trained = None if qat_epochs is None else settings.qat.model_copy(update={"epochs": qat_epochs})
    given = {"images": calibration, "method": method, "accuracy_control": controlled, "qat": trained}
    return settings.model_copy(update={name: value for name, value in given.items() if value is not None})


def _stored_metadata(path: Path) -> dict[str, str] | None:
    """What an exported file says of itself; None: its form has no place for that."""
    if path.suffix == ".onnx":
        return dict(read_metadata(path).all)
    return read_pt2_metadata(path) if path.suffix == ".pt2" else None


def _int8_entry(made: Int8Model) -> dict[str, Any]:
    """An INT8 file in export.json; its proof takes the place of a comparison with PyTorch."""
    return {
        "file": made.path.name,
        "kind": "onnx",
        "precision": "int8",
        "size_bytes": made.path.stat().st_size,
        "sha256": sha256_of_file(made.path),
        "metadata": _stored_metadata(made.path),
        "engine": None,
        "parity": [],
        "not_run": [{"runtime": runtime, "reason": reason} for runtime, reason in made.proof.skipped],
        "int8": made.to_dict(),
    }


def _to_dict(found: Exported, images: int) -> dict[str, Any]:
    """export.json: every file with its checksum, the comparisons made, and those that were not possible here."""
    files = []
    for artifact in found.artifacts:
        rows = [row.to_dict() for row in found.evidence.rows if row.artifact == artifact.name]
        absent = [item for item in found.evidence.absent if item.artifact == artifact.name]
        built = found.engines.get(artifact.path.name)
        metadata = _stored_metadata(artifact.path)
        files.append(
            {
                "file": artifact.path.name,
                "kind": artifact.kind,
                "precision": artifact.precision,
                "size_bytes": artifact.path.stat().st_size,
                "sha256": sha256_of_file(artifact.path),
                "metadata": metadata,
                "engine": built.to_dict() | {"path": artifact.path.name} if built is not None else None,
                "parity": rows,
                "not_run": [{"runtime": item.runtime, "reason": item.reason} for item in absent],
            }
        )
        if (delegation := found.delegations.get(artifact.path.name)) is not None:
            files[-1]["delegation"] = delegation.to_dict()
    files += [_int8_entry(made) for made in found.int8]
    return {
        "schema": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": device_name(),
        "images": images,
        "passed": found.passed,
        "files": files,
        "skipped": [{"what": what, "reason": reason} for what, reason in found.skipped],
    }
