"""Whether an exported dynamic classifier takes the routes that its torch model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.dynamic import DynamicClassifier
from slimsight.compress.errors import ExportError

from .route_writer import LOGITS, ROUTES
from .runners import import_onnxruntime, to_input


def run_routes(path: Path, images: NDArray[Any], *, batch: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (N, classes) and routes (N, routes) of a masked or routed file, in ONNX Runtime on the CPU.

    Raises:
        ExportError: ONNX Runtime or the file is missing, or the file gives no routes.
    """
    ort = import_onnxruntime()
    if not path.is_file():
        raise ExportError(f"there is no {path}: export the dynamic model first")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if set(names) != {LOGITS, ROUTES}:
        raise ExportError(f"{path} gives {', '.join(names)}: a dynamic model gives {LOGITS} and {ROUTES}")
    (taken,) = session.get_inputs()
    rows = [
        session.run([LOGITS, ROUTES], {taken.name: to_input(images[start : start + batch])})
        for start in range(0, len(images), batch)
    ]
    return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


@torch.inference_mode()
def route_agreement(model: DynamicClassifier, path: Path, images: NDArray[Any], *, batch: int = 1) -> float:
    """Share of all choices of ``images`` (N, 3, H, W) that file and torch model make alike (1: every route)."""
    _, routes = run_routes(path, images, batch=batch)
    scores = [
        model.routed(torch.from_numpy(to_input(images[start : start + 64]))).scores
        for start in range(0, len(images), 64)
    ]
    ours = np.concatenate([np.stack([s.argmax(1).numpy() for s in chunk], 1) for chunk in scores])
    return float((ours == routes).mean())
