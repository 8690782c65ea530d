"""An ONNX file in FP16 beside the one in FP32: for runtimes that compute what the graph says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from slimsight.compress.files import atomic_path

from .engines.graph import Graph, Prepared, prepare


def export_half(onnx: Path, path: Path, samples: NDArray[Any]) -> Prepared:
    """Cast an ONNX file to FP16; inputs, outputs and what FP16 cannot hold stay float32, metadata stays.

    Args:
        onnx: the file; one float32 input (batch, 3, H, W).
        path: where to.
        samples: (N, 3, H, W) images, uint8 or floating point in [0, 1], that show which values FP16 cannot hold.

    Raises:
        ExportError: the file is missing or damaged, or has no FP16 form with finite logits.
        RunError: the disk is full or the place is not writable.
    """
    made = prepare(Graph(onnx), "fp16", samples)
    with atomic_path(path) as part:
        part.write_bytes(made.data)
    return made
