"""Export of a model with any outputs and inputs to ONNX, each by its name, with the parity of every output."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ExportError, first_error_line
from slimsight.compress.inputs import Example, as_arguments
from slimsight.compress.modes import eval_mode
from slimsight.compress.outputs import name_tensors

from .onnx_files.graph import IMAGES_INPUT, runtime_errors
from .runners.onnxruntime_session import open_session
from .to_onnx import export_onnx

PARITY = 1e-4
"""Largest difference of an output in ONNX Runtime, relative to the output's largest value: sums in another order."""


def export_named(model: nn.Module, example: Example, path: Path, *, opset: int = 18) -> dict[str, float]:
    """Write ``model`` to ``path`` as ONNX and run it in ONNX Runtime on ``example``.

    The file's outputs have the names of the model's (``name_tensors``: ``out.boxes[0]``). Its input is ``images``; of
    several inputs, the keyword or the argument of ``forward``.

    Args:
        example: as the model takes it, any number of rows; it is compared as it is.

    Returns:
        The largest difference of each output, relative to its largest value.

    Raises:
        ExportError: as ``export_onnx``; or an output of the file is not the model's; it is named.
        RunError: the disk is full or the folder is not writable.
    """
    args, keywords = as_arguments(example)
    with eval_mode(model), torch.no_grad():
        expected = name_tensors(model(*args, **keywords))
    names = input_names(model, example)
    export_onnx(model, example, path, opset=opset, inputs=names, outputs=tuple(expected))
    given = dict(zip(names, (*args, *keywords.values()), strict=True))
    found = _run(path, given, list(expected))
    differences = {name: _difference(found[name], values) for name, values in expected.items()}
    wrong = [name for name, difference in differences.items() if not difference <= PARITY]
    if wrong:
        raise ExportError(
            f"output '{wrong[0]}' of {path} differs from the model's by {differences[wrong[0]]:.1e} (relative), "
            f"{PARITY:.0e} is allowed: please report this model"
        )
    return differences


def input_names(model: nn.Module, example: Example) -> tuple[str, ...]:
    """Names of the inputs of a model's file."""
    if isinstance(example, Tensor):
        return (IMAGES_INPUT,)
    if isinstance(example, dict):
        return tuple(example)
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [each.name for each in inspect.signature(model.forward).parameters.values() if each.kind in named]
    return tuple(parameters[k] if k < len(parameters) else f"input_{k}" for k in range(len(example)))


def _run(path: Path, inputs: dict[str, Tensor], outputs: list[str]) -> dict[str, Any]:
    session = open_session(path, threads=1)
    taken = {each.name for each in session.get_inputs()}  # one that the model does not use is not in the file
    feed = {name: value.numpy() for name, value in inputs.items() if name in taken}
    try:
        return dict(zip(outputs, session.run(outputs, feed), strict=True))
    except runtime_errors() as error:
        raise ExportError(f"{path} does not run in ONNX Runtime ({first_error_line(error)})") from error


def _difference(found: Any, expected: Tensor) -> float:
    theirs = expected.double().numpy()
    if found.shape != theirs.shape:
        return float("inf")
    if not theirs.size:
        return 0.0
    scale = max(float(np.abs(theirs).max()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(found.astype(np.float64) - theirs).max() / scale)
    return difference if np.isfinite(difference) else float("inf")
