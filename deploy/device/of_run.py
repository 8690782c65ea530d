"""The run's file that a device measured, found by its checksum, and the figures for budgets and the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slimsight.compress.errors import ConfigError, Damaged
from slimsight.compress.files.atomic import atomic_path
from slimsight.compress.files.sealed import read_sealed, sha256_of_file
from slimsight.compress.files.untrusted import printable
from slimsight.compress.progress import SILENT, Progress

from ..report.device import DeviceFigures
from ..run_dir import RunDir
from ..run_dir.exports import EXPORT_FILE, check_exports
from ..timing.statistics import MAX_VARIATION, relative_drift
from .evidence import Evidence, read_evidence
from .limits import LIMITS

FOLDER = "measured"
"""Of a run: copies of the ``verify.json`` files that its report shows."""


def device_figures(evidence: Evidence, artifact: str) -> DeviceFigures:
    """The figures of ``evidence``, judged anew by our limits, not by those that the file states.

    Args:
        artifact: what reports call the file that was measured.
    """
    outputs, latency, runtime = evidence.outputs, evidence.latency, evidence.runtime
    why = "; ".join(_reasons(evidence))
    device, place = evidence.device, f" ({printable(runtime.device)})" if runtime.device else ""
    return DeviceFigures(
        device=f"{printable(device.name)}, {printable(device.system)} {printable(device.machine)}",
        runtime=f"{printable(runtime.version)}{place}",
        artifact=artifact,
        sha256=evidence.model.sha256,
        precision=evidence.precision,
        threads=latency.threads,
        calls=latency.calls,
        median_ms=latency.median_ms,
        low_ms=latency.low_ms,
        high_ms=latency.high_ms,
        images=outputs.images,
        difference=outputs.difference,
        agreement=outputs.agreement,
        passed=not why,
        why=why or None,
        noise=_noise(latency.times_ms, latency.low_ms, latency.high_ms),
        measured=evidence.created,
    )


def _reasons(evidence: Evidence) -> Iterator[str]:
    """Why the device does not compute what the run computed."""
    made, outputs = evidence.preprocessing, evidence.outputs
    limits = LIMITS[evidence.precision]
    if made.different:
        yield f"{len(made.different)} of {made.images} golden images give other pixels there"
    if outputs.difference is None:
        yield "logits there are not finite"
    elif outputs.difference > limits.difference:
        yield (
            f"logits there differ by {outputs.difference:.1e} of the largest logit, at most {limits.difference:g} is "
            f"{evidence.precision}'s rounding"
        )
    if outputs.agreement < limits.agreement:
        yield f"{outputs.agreement:.0%} of the golden images have the same class there, {limits.agreement:.0%} needed"


def _noise(times: list[float], low: float, high: float) -> tuple[str, ...]:
    reasons = []
    if high / low - 1 > MAX_VARIATION:
        reasons.append(f"the interval of the median is {high / low - 1:.0%} wide")
    if abs(drift := relative_drift(np.array(times))) > MAX_VARIATION:
        reasons.append(f"the median changed by {drift:+.0%} between the halves")
    return tuple(reasons)


def find_artifact(evidence: Evidence, run: RunDir) -> str:
    """What the run calls the file that was measured: ``slim/model.onnx``, ``export/model.pte``.

    Raises:
        ConfigError: it is of the run's original, or of another model.
        Damaged: a file of the run is not what was written.
    """
    measured = evidence.model
    name = _written_by_run(run).get(measured.sha256) or _exported(run).get(measured.sha256)
    if name is None:
        raise ConfigError(
            f"the measurement is of another model: on the device {printable(measured.file)} has the sha256 "
            f"{measured.sha256[:12]}..., and no file of {run.root} has; package this run again, and verify that"
        )
    if name.startswith("original"):
        raise ConfigError(
            f"the measurement is of {run.root}'s original ({name}), and its slim model is judged: package it without "
            "--original, and verify that"
        )
    return name


def _written_by_run(run: RunDir) -> dict[str, str]:
    """The names of the ONNX files that the run itself wrote, by their checksums."""
    places = (run.slim_onnx, run.slim_int8("u8"), run.slim_int8("s8"), run.original_onnx, run.original_int8)
    return {sha256_of_file(path): path.relative_to(run.root).as_posix() for path in places if path.is_file()}


def _exported(run: RunDir) -> dict[str, str]:
    """The names of the files that ``slimsight export`` wrote into the run, by their checksums.

    Raises:
        Damaged: one of them is not what was written.
    """
    folder = run.export_json.parent
    check_exports(folder)
    try:
        files = read_sealed(folder / EXPORT_FILE, older=True)["files"]
    except FileNotFoundError:
        return {}
    return {str(file["sha256"]): f"{folder.name}/{file['file']}" for file in files}


def keep_evidence(path: Path, run: RunDir) -> Path:
    """Copy a ``verify.json`` that is of this run into it, under its checksum; returns the copy's path.

    Raises:
        ConfigError: it cannot be used, or is of another model.
    """
    find_artifact(read_evidence(path), run)
    target = run.root / FOLDER / f"{sha256_of_file(path)[:16]}.json"
    with atomic_path(target) as part:
        shutil.copyfile(path, part)
    return target


def kept_figures(run: RunDir, progress: Progress = SILENT) -> tuple[DeviceFigures, ...]:
    """Figures of the copies in the run, oldest first; one of an earlier model is named and left out."""
    figures = []
    for path in sorted((run.root / FOLDER).glob("*.json")):
        try:
            evidence = read_evidence(path)
            figures.append(device_figures(evidence, find_artifact(evidence, run)))
        except (ConfigError, Damaged) as error:
            progress.note(f"{path} is left out of the report: {error}")
    return tuple(sorted(figures, key=lambda row: row.measured))
