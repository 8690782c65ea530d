"""What quantising each layer alone does to the logits of the FP32 network: which layers INT8 costs most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.progress import SILENT, Progress

from ..runners.in_onnxruntime import why_slow_or_wrong
from .fidelity import compare_fidelity, finite_or_none
from .prove import OnnxLogits
from .quantise import Quantiser, write_quantised


@dataclass(frozen=True)
class LayerNoise:
    """``sqnr_db``: signal to noise of the logits where this layer alone is quantised; infinite: they are the same."""

    layer: str
    sqnr_db: float

    def to_dict(self) -> dict[str, Any]:
        """A row of ``sensitivity`` in report.json; null: no noise, or logits that are not finite."""
        return {"layer": self.layer, "sqnr_db": finite_or_none(self.sqnr_db)}


def measure_sensitivity(
    quantiser: Quantiser, images: NDArray[Any], exact: NDArray[np.float32], *, progress: Progress = SILENT
) -> tuple[LayerNoise, ...]:
    """The noise of each layer, in the graph's order: its weight, its input and its output are quantised, no other.

    Noises of single layers nearly add up, so that the layers with most of it are those to keep in FP32.

    Args:
        images: (N, 3, H, W), none of the calibration images and none that a figure is measured on.
        exact: (N, classes) logits of the FP32 file.

    Raises:
        ExportError: a trial file cannot be made or opened.
    """
    optimised = why_slow_or_wrong(quantiser.scheme.form) is None
    found = []
    for layer in progress.track(quantiser.layers, "noise of each layer in INT8", unit="layers"):
        trial = write_quantised(quantiser.to_graph(only=layer), quantiser.folder / "one.onnx", quantiser.scheme)
        logits = OnnxLogits(trial.path, optimised=optimised)(images)
        found.append(LayerNoise(layer, compare_fidelity(exact, logits).sqnr_db))
    return tuple(found)


def noisiest_first(sensitivity: tuple[LayerNoise, ...]) -> list[str]:
    """Layers by their noise, most first; of equal ones those that come first in the graph."""
    return [row.layer for row in sorted(sensitivity, key=lambda row: row.sqnr_db)]
