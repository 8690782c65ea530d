"""INT8 of a traced program by PT2E: XNNPACK's quantiser, symmetric, one scale per output channel of weights.

https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from .runtime import import_executorch, quiet_executorch


def quantised(program: ExportedProgram, images: NDArray[np.float32], most: int) -> ExportedProgram:
    """``program`` with INT8 weights and activations; ranges are the extremes on ``images``.

    Args:
        program: traced for calls of 1 to ``most`` images.
        images: (N, 3, H, W) training images in [0, 1].

    Raises:
        RuntimeMissing: ExecuTorch, or torchao that it brings, is missing.
    """
    xnnpack: Any = import_executorch("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    pt2e: Any = import_executorch("torchao.quantization.pt2e.quantize_pt2e")
    scheme = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    batch = min(most, 2)  # as it was traced
    with quiet_executorch(), torch.no_grad():
        observed = pt2e.prepare_pt2e(program.module(), xnnpack.XNNPACKQuantizer().set_global(scheme))
        for start in range(0, len(images) - batch + 1, batch):
            observed(torch.from_numpy(images[start : start + batch]))
        converted = pt2e.convert_pt2e(observed)
        example = torch.zeros(batch, *images.shape[1:])
        sizes = None if most == 1 else ({0: Dim("batch", max=most)},)
        return torch.export.export(converted, (example,), dynamic_shapes=sizes)
