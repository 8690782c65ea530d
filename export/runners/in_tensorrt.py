"""TensorRT and TensorRT for RTX: engines on a CUDA device, with their buffers bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing

from ..engines.flavour import NAMES, Flavour, import_runtime, this_machine, to_logger
from ..engines.key import read_sidecar, refuse_foreign
from ..engines.readback import dtype_name, inspected_layers
from .base import BaseRunner

LOGITS = "logits"


@dataclass(frozen=True)
class _Buffers:
    """What one batch size needs: the images in pinned host memory, and every tensor of the engine on the device."""

    host: torch.Tensor
    tensors: dict[str, torch.Tensor]


class TensorRtRunner(BaseRunner):
    """An engine on the first CUDA device, on a stream of its own; buffers are made once per batch size.

    ``device_ms`` is what the last call took on the device alone, without copies, in milliseconds by CUDA events;
    None before the first.

    Args:
        path: the engine, with its key beside it; float32 images in, ``logits`` among the outputs.
        flavour: the runtime that built it.

    Raises:
        ExportError: on opening, when the runtime, the file or a CUDA device is missing, the engine is damaged, or it
            was built by another version or for another GPU.
    """

    _device = "cuda"

    def __init__(self, path: Path, flavour: Flavour = "tensorrt") -> None:
        super().__init__(path.name, f"{flavour}-cuda", "fp32")
        self._path, self._flavour = path, flavour
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._events: tuple[Any, Any] | None = None
        self._images, self._logits = "", ""
        self._batches = (1, 1)  # fewest and most images of a call
        self._buffers: dict[int, _Buffers] = {}
        self._bound = 0  # the batch size that the context is set to

    def _open(self) -> None:
        trt, machine = import_runtime(self._flavour), this_machine()
        key, result = read_sidecar(self._path)
        refuse_foreign(self._path, key, self._flavour, trt.__version__, machine)
        if not machine.has_gpu:
            raise RuntimeMissing(
                f"{self._path.name} runs on a CUDA device, and there is none here: open it on the machine it is for, "
                "or run the ONNX file in ONNX Runtime"
            )
        logger = to_logger(trt)
        runtime = trt.Runtime(logger)
        data = self._path.read_bytes()
        _refuse_invalid(trt, runtime, data, self._path)
        engine = runtime.deserialize_cuda_engine(data)
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            why = next(iter(logger.errors()), "it does not say why")
            raise ExportError(f"{NAMES[self._flavour]} cannot open {self._path} ({why}): export it again here")
        self._describe(trt, engine)
        layers = inspected_layers(trt, engine)
        if layers:
            self.precision = "fp16" if any("float16" in layer.types for layer in layers) else "fp32"
        else:
            self.precision = str(result["precision"])
        self._runtime, self._engine, self._context = runtime, engine, context
        cuda: Any = torch.cuda  # its streams and events are not typed
        self._stream = cuda.Stream()
        self._events = (cuda.Event(enable_timing=True), cuda.Event(enable_timing=True))

    def _describe(self, trt: Any, engine: Any) -> None:
        """Names, image shape and batch sizes, as the engine says."""
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        kinds = [dtype_name(engine.get_tensor_dtype(name)) for name in inputs]
        if kinds != ["float32"] or LOGITS not in outputs:
            raise ExportError(
                f"{self._path} takes {', '.join(kinds)} and gives {', '.join(outputs)}: one float32 input and an "
                f"output '{LOGITS}' are needed"
            )
        self._images, self._logits = inputs[0], LOGITS
        least, _, most = engine.get_tensor_profile_shape(self._images, 0)
        self._batches, self._image_shape = (least[0], most[0]), tuple(most)[1:]

    def _close(self) -> None:
        self._buffers.clear()
        self._events = self._stream = self._context = self._engine = self._runtime = None
        self._bound = 0

    @torch.inference_mode()
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        fewest, most = self._batches
        if not fewest <= len(images) <= most:
            raise ExportError(f"{self.name} takes {fewest} to {most} images per call, not {len(images)}")
        assert self._events is not None
        begin, end = self._events
        buffers = self._bind(images.shape)
        buffers.host.copy_(torch.from_numpy(images))
        with torch.cuda.stream(self._stream):
            buffers.tensors[self._images].copy_(buffers.host, non_blocking=True)
            begin.record(self._stream)
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise ExportError(f"{NAMES[self._flavour]} failed to run {self.name} for {len(images)} images")
            end.record(self._stream)
            logits: NDArray[np.float32] = buffers.tensors[self._logits].to("cpu", torch.float32, copy=True).numpy()
        self._stream.synchronize()
        self.device_ms = float(begin.elapsed_time(end))
        return logits

    def _bind(self, shape: tuple[int, ...]) -> _Buffers:
        """The buffers of a batch size, with the context set to them."""
        batch = shape[0]
        if self._bound == batch:
            return self._buffers[batch]
        self._context.set_input_shape(self._images, shape)
        known = self._buffers.get(batch)
        if known is None:
            names = [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]
            tensors = {
                name: torch.empty(
                    tuple(self._context.get_tensor_shape(name)),
                    dtype=getattr(torch, dtype_name(self._engine.get_tensor_dtype(name))),
                    device=self._device,
                )
                for name in names
            }
            host = torch.empty(shape, pin_memory=self._device == "cuda")
            known = self._buffers[batch] = _Buffers(host, tensors)
        for name, tensor in known.tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        self._bound = batch
        return known


def _refuse_invalid(trt: Any, runtime: Any, data: bytes, path: Path) -> None:
    """Raise where the runtime itself says that it cannot run an engine here, with its reasons by name."""
    if not hasattr(runtime, "get_engine_validity"):  # TensorRT says so only when it opens the engine
        return
    validity, reasons = runtime.get_engine_validity(data)
    if validity == trt.EngineValidity.INVALID:
        flags = trt.EngineInvalidityDiagnostics.__members__.items()
        named = [name.lower().replace("_", " ") for name, flag in flags if int(reasons) & int(flag)]
        raise ExportError(f"{path} cannot run here ({', '.join(named) or 'no reason given'}): export it again here")
