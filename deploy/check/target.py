"""Targets of a check: a run, an ONNX file, a ``.pt2`` file, or a network built from code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slimsight.compress.errors import ConfigError
from slimsight.export.costs.layers import ModelCost, Shape
from slimsight.export.costs.of_onnx import onnx_bytes, onnx_cost

from ..budget import TargetCosts, TargetFigures
from ..report import read_report
from ..run_dir import RunDir, read_run
from .evidence import slim_cost

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["run", "onnx", "pt2", "model"]

_KIND_NAMES: dict[Kind, str] = {"run": "a run", "onnx": "an ONNX file", "pt2": "a .pt2 file", "model": "a model"}
SUFFIXES = {".onnx": "onnx", ".pt2": "pt2"}


@dataclass(frozen=True)
class Target:
    """A target and its figures. ``runs``: gives what a runtime opens (a file or a module); None: nothing to run.

    ``image``: (C, H, W) that MACs are of; None of a run without an ONNX file.
    """

    name: str
    kind: Kind
    figures: TargetFigures
    image: Shape | None
    runs: Callable[[], Path | nn.Module] | None
    report: Path | None = None


def read_target(name: str, image: Shape | None = None, classes: int = 1000) -> Target:
    """Read the target called ``name``.

    Args:
        name: a run directory, a ``.onnx`` or ``.pt2`` file, ``path/to/file.py:factory``, or another model by name as
            ``slimsight inspect`` takes it.
        image: (C, H, W); a model needs it, and an ONNX file that takes any size.
        classes: for a factory that takes their number.

    Raises:
        SlimError: it does not exist, cannot be read or built, or needs ``image``.
    """
    path = Path(name)
    if path.is_dir():
        return _of_run(name, read_run(path))
    if path.suffix == ".onnx":
        return _of_file(name, "onnx", onnx_cost(path, image), onnx_bytes(path))
    if path.suffix == ".pt2":
        from slimsight.export.costs.of_torch import pt2_cost

        return _of_file(name, "pt2", pt2_cost(path), path.stat().st_size)
    if "/" in name and ":" not in name:  # nothing that could be built: a run or a file that is not there
        what = "is none of them" if path.exists() else "does not exist"
        raise ConfigError(f"{name} {what}: give a run directory, an ONNX or .pt2 file, or path/to/file.py:factory")
    return _of_model(name, image, classes)


def read_baseline(path: Path, image: Shape | None = None) -> Target:
    """Read the target that ratios refer to: a file, or the original of a run.

    Raises:
        SlimError: it is neither, cannot be read, or is of a run that has not finished.
    """
    if path.is_dir():
        run = read_run(path)
        path = run.original_onnx
        run.check_recorded(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"the baseline {path} is neither an ONNX nor a .pt2 file nor a run: name one of these")
    return read_target(str(path), image)


def _of_run(name: str, run: RunDir) -> Target:
    report = read_report(run.report_json)
    cost = slim_cost(run, report)
    figures = TargetFigures.of_report(report, None if cost is None else cost.layers)
    runs = None if cost is None else lambda: run.slim_onnx
    return Target(name, "run", figures, None if cost is None else cost.image, runs, run.report_md)


def _of_file(name: str, kind: Kind, cost: ModelCost, size: int) -> Target:
    figures = _figures(kind, cost, size, "size of the file")
    return Target(name, kind, figures, cost.image, lambda: Path(name))


def _of_model(name: str, image: Shape | None, classes: int) -> Target:
    if image is None:
        raise ConfigError(f"{name} is built from code, which says no size: give one image's, e.g. --input 3x224x224")
    import torch

    from slimsight.compress.macs import size_bytes
    from slimsight.compress.models import check_outputs
    from slimsight.compress.models.adopt import adopt
    from slimsight.export.costs.of_torch import module_cost

    from ..inspection import load_model

    net = adopt(load_model(name, classes)).model.eval()
    check_outputs(net, torch.rand(2, *image, generator=torch.Generator().manual_seed(0)))
    figures = _figures("model", module_cost(net, image), size_bytes(net), "size of the weights")
    return Target(name, "model", figures, image, lambda: net)


def _figures(kind: Kind, cost: ModelCost, size: int, size_name: str) -> TargetFigures:
    return TargetFigures(_KIND_NAMES[kind], TargetCosts(cost.macs, cost.params, size), size_name, layers=cost.layers)
