"""ONNX Runtime on a GPU: one CUDA stream for the copies, the graph and the clock; buffers in the GPU's memory."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimsight.compress.errors import RuntimeMissing

DEVICE = 0


@cache
def stream() -> Any:
    """The stream that sessions compute on, one of torch's: its events tell when the graph ran.

    Raises:
        RuntimeMissing: torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeMissing("torch sees no GPU here (no CUDA device, or no driver for it): use the CPU's provider")
    made: Any = torch.cuda.Stream  # untyped in torch
    return made(DEVICE)  # not the default one: its handle is 0, which says 'none' to a provider


def timers() -> tuple[Any, Any]:
    """Two events of the GPU, to record before and after what is timed."""
    event: Any = torch.cuda.Event  # untyped in torch
    return event(enable_timing=True), event(enable_timing=True)


def provider_options(provider: str) -> dict[str, str]:
    """What a GPU's provider is told; CUDA in fp32 computes in fp32, not in TF32 as it would by itself.

    Raises:
        RuntimeMissing: torch sees no GPU.
    """
    options = {"device_id": str(DEVICE), "user_compute_stream": str(stream().cuda_stream)}
    return options | ({"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {})


class BoundOnGpu:
    """A session's input and output, bound to memory of the GPU once for every batch size."""

    def __init__(self, session: Any) -> None:
        self._session, self._stream = session, stream()
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0]
        self._bound: dict[tuple[int, ...], tuple[Tensor, Tensor, Any]] = {}

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Logits (N, classes) in host memory, and the ms that the graph took on the GPU, copies apart."""
        given, logits, binding = self._buffers(images.shape)
        start, end = timers()
        with torch.cuda.stream(self._stream):
            given.copy_(torch.from_numpy(images))
            start.record()
            self._session.run_with_iobinding(binding)
            end.record()
            result: NDArray[np.float32] = logits.cpu().numpy()  # waits for the stream
        end.synchronize()
        return result, float(start.elapsed_time(end))

    def _buffers(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Any]:
        known = self._bound.get(shape)
        if known is None:
            device = torch.device("cuda", DEVICE)
            given = torch.empty(shape, device=device)
            logits = torch.empty((shape[0], int(self._output.shape[1])), device=device)
            binding = self._session.io_binding()
            binding.bind_input(self._input, "cuda", DEVICE, np.float32, shape, given.data_ptr())
            name = self._output.name
            binding.bind_output(name, "cuda", DEVICE, np.float32, tuple(logits.shape), logits.data_ptr())
            known = self._bound[shape] = (given, logits, binding)
        return known
