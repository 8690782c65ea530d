"""Export of the Python API to ONNX: every output by its name, compared with PyTorch in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.files.destination import check_file_destination
from slimsight.compress.inputs import Example, check_example, first_rows
from slimsight.export.named import export_named

from ..slim_folder import Slimmed

_OLDEST, _NEWEST = 18, 22
_ROWS = 2


def export_onnx(
    model: Slimmed | nn.Module, path: str | Path, example: Example | None = None, *, opset: int = 18
) -> Mapping[str, float]:
    """Write a slim model (or any other) as one ONNX file of any batch size, and run it in ONNX Runtime.

    Outputs have the names that exactness speaks of (``out.boxes[0]``; ``out`` where there is one). The input is
    ``images``; of several inputs, the keyword or the argument of ``forward``.

    Args:
        example: as the model takes it; None: random numbers in the shape of the example that it was slimmed with.

    Returns:
        The largest difference of each output from the model's, relative to its largest value.

    Raises:
        ConfigError: no example for a model that is no ``Slimmed``, another opset, or no such place.
        ExportError: the model has no ONNX form, or an output of the file is not the model's; it is named.
    """
    file = Path(path)
    check_file_destination(file, "path")
    if not _OLDEST <= opset <= _NEWEST:
        raise ConfigError(f"opset is {opset}; give {_OLDEST} to {_NEWEST}")
    if file.suffix != ".onnx":
        raise ConfigError(f"the path is {file}; give a file that ends in .onnx")
    if example is None:
        if not isinstance(model, Slimmed):
            raise ConfigError("the model is no slim model of slimsight.slim: give an example of its input as well")
        example = _random_like(model.example)
    net = model.model if isinstance(model, Slimmed) else model
    if not isinstance(net, nn.Module):
        raise ExportError(
            f"the model is a {type(net).__name__}: give what slimsight.slim returns, or a torch.nn.Module"
        )
    return export_named(net, first_rows(check_example(example), _ROWS), file, opset=opset)


def _random_like(example: Example) -> Example:
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Tensor) -> Tensor:
        return torch.rand(_ROWS, *value.shape[1:], generator=generator)

    if isinstance(example, Tensor):
        return drawn(example)
    if isinstance(example, dict):
        return {name: drawn(value) for name, value in example.items()}
    return tuple(map(drawn, example))
