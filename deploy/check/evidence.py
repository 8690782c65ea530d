"""Evidence for what a run's report claims: records of its files, and the MACs that its ONNX files have."""

from __future__ import annotations

from slimsight.compress.errors import RunError
from slimsight.export.costs.layers import ModelCost
from slimsight.export.costs.of_onnx import onnx_cost

from ..report.schema import Report
from ..run_dir import RunDir


def slim_cost(run: RunDir, report: Report) -> ModelCost | None:
    """The cost that is counted in a run's slim/model.onnx; None of a run without one.

    Raises:
        RunError: the run did not record the report or an ONNX file, or what is counted contradicts the report.
        ExportError: an ONNX file cannot be read.
    """
    run.check_recorded(run.report_json)
    if not run.slim_onnx.is_file():
        return None
    run.check_recorded(run.slim_onnx, run.original_onnx)
    slim = onnx_cost(run.slim_onnx)
    uncounted = report.slim.macs - slim.macs
    # Recurrent layers have MACs that are not counted in ONNX files: a slim model has at most those of its original.
    most = report.original.macs - onnx_cost(run.original_onnx).macs
    if not 0 <= uncounted <= most:
        raise RunError(
            f"{run.slim_onnx} has {slim.macs:,} MACs, but {run.report_json} says {report.slim.macs:,}: they are not of "
            f"one run; 'slimsight run RECIPE --out {run.root}' writes both anew"
        )
    return slim
