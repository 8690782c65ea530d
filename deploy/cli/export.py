"""``slimsight export``: the models of a finished run for their targets, each proven where it can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from slimsight.compress.errors import BudgetExceeded
from slimsight.compress.files.destination import check_folder_destination

from .int8_proof import LeastAgreement, LeastSqnr, print_int8, read_agreement_option, refuse_failed
from .terminal import AllowCode, Terminal, console

if TYPE_CHECKING:
    from ..run.export import Exported


def export(
    context: typer.Context,
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a finished run")],
    to: Annotated[
        str, typer.Option(metavar="FORMAT,...", help="onnx, pt2, executorch, tensorrt, tensorrt-rtx")
    ] = "onnx,pt2",
    precision: Annotated[
        str, typer.Option(metavar="P,...", help="of ONNX files and engines: fp32, fp16, int8")
    ] = "fp32",
    opset: Annotated[int | None, typer.Option(max=22, help="ONNX operator set; default: the recipe's")] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="MIN:OPT:MAX", help="images per call, e.g. 1:8:32; default: 1 and 64, engines 1:1:32"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the files; default: RUN/export")] = None,
    calibration: Annotated[
        int | None, typer.Option(help="int8: training images that ranges are measured on; default: the recipe's")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="int8: minmax, entropy or percentile; default: the recipe's")
    ] = None,
    agreement: LeastAgreement = None,
    sqnr: LeastSqnr = None,
    max_float_layers: Annotated[
        int | None, typer.Option(help="int8: most layers that stay in FP32; default: the recipe's")
    ] = None,
    qat_epochs: Annotated[
        int | None, typer.Option(help="int8: epochs of quantisation-aware training; default: the recipe's")
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Export a run's slim model (and its dynamic one), and compare each file with PyTorch on real images."""
    from ..run.export import FORMATS, PRECISIONS, export_run, read_batch, read_choices

    terminal: Terminal = context.obj
    if out is not None:
        check_folder_destination(out, "--out")
    exported = export_run(
        run_dir,
        formats=read_choices(to, FORMATS, "--to"),
        opset=opset,
        precisions=[name for name in PRECISIONS if name in read_choices(precision, PRECISIONS, "--precision")],
        batch=read_batch(batch),
        out=out,
        calibration=calibration,
        method=method,
        accuracy_control={
            "agreement": read_agreement_option(agreement),
            "sqnr_db": sqnr,
            "max_float_layers": max_float_layers,
        },
        qat_epochs=qat_epochs,
        allow_code=allow_code,
        progress=terminal.progress,
    )
    _print_exported(exported)
    for made in exported.int8:
        console().print(made.path.name)
        print_int8(made)
    failed = [row for row in exported.evidence.rows if not row.passed]
    if failed:
        raise BudgetExceeded(
            f"{len(failed)} of {len(exported.evidence.rows)} comparisons failed, see the lines marked FAILED; figures: "
            f"{exported.json}"
        )
    refuse_failed(*exported.int8)
    console().print(f"figures: {exported.json}", soft_wrap=True)


def _print_exported(exported: Exported) -> None:
    from ..report.units import as_bytes, as_error, as_percent

    out = console()
    headers = ("file", "size", "runtime", "precision", "batch", "largest", "0.99", "median", "top-1", "")
    table = Table(*headers, box=None, pad_edge=False)
    for artifact in exported.artifacts:
        head = [artifact.path.name, as_bytes(artifact.path.stat().st_size)]
        rows = [row for row in exported.evidence.rows if row.artifact == artifact.name]
        for row in rows:
            differences = map(as_error, (row.max_abs, row.p99_abs, row.median_abs))
            verdict = "ok" if row.passed else "FAILED"
            top1 = as_percent(row.top1_agreement)
            table.add_row(*head, row.runtime, row.precision, str(row.batch), *differences, top1, verdict)
            head = ["", ""]
        if not rows:
            table.add_row(*head, "written, not run here")
    out.print(table)
    for row in exported.evidence.rows:
        if row.first_difference is not None:
            where = f"{row.artifact} in {row.runtime}, batch {row.batch}"
            out.print(f"FAILED {where}: {row.first_difference}", soft_wrap=True)
    for name, delegation in exported.delegations.items():
        remaining = ", ".join(f"{item.name} {item.layer}".strip() for item in delegation.remaining) or "none"
        taken, count = len(delegation.delegated), len(delegation.delegated) + len(delegation.remaining)
        out.print(f"{name}: XNNPACK runs {taken} of {count} operators; the others: {remaining}", soft_wrap=True)
        if integer := len(delegation.integer_layers):
            layers = integer + len(delegation.float_layers)
            out.print(f"{name}: {integer} of {layers} convolutions and linear layers in integers", soft_wrap=True)
    reasons: dict[tuple[str, str], list[str]] = {}
    for absent in exported.evidence.absent:
        reasons.setdefault((absent.runtime, absent.reason), []).append(absent.artifact)
    for (runtime, reason), artifacts in reasons.items():
        out.print(f"not run: {', '.join(artifacts)} in {runtime}: {reason}", soft_wrap=True)
    for what, reason in exported.skipped:
        out.print(f"not written: {what}: {reason}", soft_wrap=True)
