"""Which file of a run goes into a package, with the proof that it computes what PyTorch computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.files.sealed import read_sealed
from slimsight.export.onnx_files.graph import external_files

from ..report import Report
from ..report.units import as_error
from ..run_dir import RunDir
from ..run_dir.exports import EXPORT_FILE, check_exports
from .targets import PackageTarget

_EXPORTED: Final = {"fp16": "model.fp16.onnx", "u8": "model.int8.onnx", "s8": "model.int8.trt.onnx"}


@dataclass(frozen=True)
class ModelFile:
    """A model's file of a run.

    Args:
        path: the file; ``artifact``: what reports call it, e.g. ``slim/model.onnx``.
        reference: the ONNX file whose logits on this machine are expected on the device.
        proof: sentences on how it was compared with PyTorch, or with its own arithmetic.
    """

    path: Path
    artifact: str
    reference: Path
    proof: tuple[str, ...]

    def named(self, name: str) -> dict[str, Path]:
        """The files of the package: this one called ``name``, and those beside it that hold its weights."""
        folder, _, _ = name.rpartition("/")
        beside = external_files(self.path) if self.path.suffix == ".onnx" else []
        return {name: self.path} | {f"{folder}/{file}": self.path.parent / file for file in beside}


def choose_file(run: RunDir, report: Report, target: PackageTarget, precision: str, *, original: bool) -> ModelFile:
    """The file of ``run`` for ``target``; its checksum is that of the run's records.

    Raises:
        ConfigError: the run has no such file; the message says what makes it.
        ExportError: it failed its comparison in the target's runtime.
    """
    fp32 = run.original_onnx if original else run.slim_onnx
    if not fp32.is_file():
        raise ConfigError(f"{run.root} has no {fp32.name}: add onnx to export.formats of its recipe, and run it again")
    run.check_recorded(fp32)
    if target.name == "executorch":
        if original:
            raise ConfigError(
                "packages of the original are for onnxruntime, openvino and tensorrt: leave --original out"
            )
        command, name = f"slimsight export {run.root} --to executorch", "model.pte"
        if precision == "int8":
            command, name = f"{command} --precision fp32,int8", "model.int8.pte"
        return _exported(run, target, name, fp32, command)
    if precision == "fp32":
        return _proven(ModelFile(fp32, _name(run, fp32), fp32, ()), report, target)
    if precision == "fp16":
        if original:
            raise ConfigError("the run has no original in FP16: package it with --precision fp32")
        command = f"slimsight export {run.root} --to onnx --precision fp16"
        return _exported(run, target, _EXPORTED["fp16"], fp32, command)
    return _int8(run, report, target, fp32, original=original)


def _int8(run: RunDir, report: Report, target: PackageTarget, fp32: Path, *, original: bool) -> ModelFile:
    form = target.form
    if original and form != "u8":
        raise ConfigError(f"the run has no original in INT8 for {target.name}: package it with --precision fp32")
    path = run.original_int8 if original else run.slim_int8(form)
    if path.is_file():
        run.check_recorded(path)
        return _proven(ModelFile(path, _name(run, path), path if form == "u8" else fp32, ()), report, target)
    if original:
        raise ConfigError("the run has no original in INT8: add int8 to export.precision of its recipe, and run again")
    again = f"slimsight run RECIPE --out {run.root}"
    command = {
        "u8": f"slimsight export {run.root} --to onnx --precision int8",
        "s8": f"{again} --set export.precision=[fp32,int8] --set export.int8.forms=[u8,s8]",
    }[form]
    return _exported(run, target, _EXPORTED[form], fp32, command)


def _name(run: RunDir, path: Path) -> str:
    return path.relative_to(run.root).as_posix()


def _proven(chosen: ModelFile, report: Report, target: PackageTarget) -> ModelFile:
    """A file of the run itself, with what its report says of it."""
    rows = [row for row in report.parity if row.artifact == chosen.artifact]
    made = None if report.int8 is None else next((f for f in report.int8.files if f.artifact == chosen.artifact), None)
    proof = [
        f"{row.runtime} {row.precision}, batch {row.batch}: largest difference of logits {as_error(row.max_abs)}"
        for row in rows
    ]
    failed = [row.runtime for row in rows if not row.passed]
    if made is not None:
        proof += [
            f"{row.runtime}: 0.99 of differences below {as_error(row.p99)} of the largest logit, same class on "
            f"{row.agreement:.2%} of the images, against the file's own arithmetic"
            for row in made.runtimes
        ]
        failed += [row.runtime for row in made.runtimes if not row.passed]
    _refuse_failed(chosen, failed, target)
    return ModelFile(chosen.path, chosen.artifact, chosen.reference, tuple(proof))


def _exported(run: RunDir, target: PackageTarget, name: str, fp32: Path, command: str) -> ModelFile:
    """A file that ``slimsight export`` wrote into the run, with what export.json says of it.

    Raises:
        Damaged: it is not what was written.
    """
    folder = run.export_json.parent
    check_exports(folder)
    entry = next((file for file in _entries(folder) if file["file"] == name), None)
    if entry is None:
        raise ConfigError(f"{folder} has no {name} on record for {target.name}: make it with '{command}'")
    path = folder / name
    proof = tuple(_sentences(entry))
    failed = [row["runtime"] for row in entry["parity"] if not row["passed"]]
    failed += [row["runtime"] for row in entry.get("int8", {}).get("runtimes", ()) if not row["passed"]]
    form_u8 = name == _EXPORTED["u8"]
    chosen = ModelFile(path, f"{folder.name}/{name}", path if form_u8 else fp32, proof)
    _refuse_failed(chosen, failed, target)
    return chosen


def _entries(folder: Path) -> list[Mapping[str, Any]]:
    try:
        return list(read_sealed(folder / EXPORT_FILE, older=True)["files"])
    except FileNotFoundError:
        return []


def _sentences(entry: Mapping[str, Any]) -> Iterator[str]:
    for row in entry["parity"]:
        error = as_error(row["max_abs"])
        yield f"{row['runtime']} {row['precision']}, batch {row['batch']}: largest difference of logits {error}"
    for row in entry.get("int8", {}).get("runtimes", ()):
        yield f"{row['runtime']}: same class on {row['agreement']:.2%} of the images as the file's own arithmetic"
    for row in entry["not_run"]:
        yield f"{row['runtime']}: not run ({row['reason']})"


def _refuse_failed(chosen: ModelFile, failed: list[str], target: PackageTarget) -> None:
    named = [runtime for runtime in failed if runtime.startswith(target.name)]
    if named:
        raise ExportError(
            f"{chosen.artifact} does not compute what PyTorch computes in {', '.join(dict.fromkeys(named))} (see the "
            "report): it is not packaged for it; choose another precision or runtime"
        )
