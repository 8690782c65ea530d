"""The runner of TensorRT and TensorRT for RTX: engines on a CUDA device, with bound buffers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing

from ..engines.flavour import FLAVOUR_NAMES, PACKAGES, Flavour, import_runtime, keeping_logger, this_machine
from ..engines.key import read_sidecar, refuse_incompatible
from ..engines.readback import dtype_name, inspected_layers
from ..onnx_files.graph import LOGITS_OUTPUT
from .base import BaseRunner, Runtime
from .cuda import event_pair, why_no_gpu


@dataclass(frozen=True)
class _Buffers:
    """Buffers of one batch size: images in pinned host memory, and every input and output of the engine on the GPU."""

    host: torch.Tensor
    tensors: dict[str, torch.Tensor]


class TensorRtRunner(BaseRunner):
    """Runs an engine on the first CUDA device, on a stream of its own; buffers are allocated once per batch size.

    ``device_ms`` is the time of the last call on the GPU by CUDA events, without copies; None before the first call.

    Args:
        path: the engine, with its key beside it; float32 images in, ``logits`` among the outputs.
        flavour: the runtime that built it.

    Raises:
        RuntimeMissing: on opening, when the runtime or a CUDA device is missing.
        ExportError: on opening, when the engine is missing or damaged, or was built by another version or for another
            GPU.
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
        self._batches = (1, 1)  # smallest and largest batch size
        self._buffers: dict[int, _Buffers] = {}
        self._bound = 0  # the batch size whose buffers the context uses

    def _open(self) -> None:
        trt, machine = import_runtime(self._flavour), this_machine()
        key, result = read_sidecar(self._path)
        refuse_incompatible(self._path, key, self._flavour, trt.__version__, machine)
        if not machine.has_gpu:
            raise RuntimeMissing(
                f"{self._path.name} runs on a CUDA device, and there is none here: open it on its target machine, "
                "or run the ONNX file in ONNX Runtime"
            )
        logger = keeping_logger(trt)
        runtime = trt.Runtime(logger)
        data = self._path.read_bytes()
        _refuse_invalid(trt, runtime, data, self._path)
        engine = runtime.deserialize_cuda_engine(data)
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            why = next(iter(logger.errors()), "it does not say why")
            raise ExportError(f"{FLAVOUR_NAMES[self._flavour]} cannot open {self._path} ({why}): export it again here")
        self._read_inputs_outputs(trt, engine)
        layers = inspected_layers(trt, engine)
        if layers and result["precision"] != "int8":  # an INT8 engine mixes types
            self.precision = "fp16" if any("float16" in layer.types for layer in layers) else "fp32"
        else:
            self.precision = str(result["precision"])
        self._runtime, self._engine, self._context = runtime, engine, context
        stream: Any = torch.cuda.Stream  # untyped in torch
        self._stream, self._events = stream(), event_pair()

    def _read_inputs_outputs(self, trt: Any, engine: Any) -> None:
        """Set names, image shape and batch sizes from the engine."""
        names = _tensor_names(engine)
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        kinds = [dtype_name(engine.get_tensor_dtype(name)) for name in inputs]
        if kinds != ["float32"] or LOGITS_OUTPUT not in outputs:
            raise ExportError(
                f"{self._path} takes {', '.join(kinds)} and gives {', '.join(outputs)}: one float32 input and an "
                f"output '{LOGITS_OUTPUT}' are needed"
            )
        self._images, self._logits = inputs[0], LOGITS_OUTPUT
        smallest, _, largest = engine.get_tensor_profile_shape(self._images, 0)
        self._batches, self._image_shape = (smallest[0], largest[0]), tuple(largest)[1:]

    def _close(self) -> None:
        self._buffers.clear()
        self._events = self._stream = self._context = self._engine = self._runtime = None
        self._bound = 0

    @torch.inference_mode()
    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        smallest, largest = self._batches
        if not smallest <= len(images) <= largest:
            raise ExportError(f"{self.name} takes {smallest} to {largest} images per call, not {len(images)}")
        assert self._events is not None
        begin, end = self._events
        buffers = self._bind(images.shape)
        buffers.host.copy_(torch.from_numpy(images))
        with torch.cuda.stream(self._stream):
            buffers.tensors[self._images].copy_(buffers.host, non_blocking=True)
            begin.record(self._stream)
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise ExportError(f"{FLAVOUR_NAMES[self._flavour]} failed to run {self.name} for {len(images)} images")
            end.record(self._stream)
            logits: NDArray[np.float32] = buffers.tensors[self._logits].to("cpu", torch.float32, copy=True).numpy()
        self._stream.synchronize()
        self.device_ms = float(begin.elapsed_time(end))
        return logits

    def _bind(self, shape: tuple[int, ...]) -> _Buffers:
        """Bind the buffers of a batch size to the context, and return them."""
        batch = shape[0]
        if self._bound == batch:
            return self._buffers[batch]
        self._context.set_input_shape(self._images, shape)
        buffers = self._buffers.get(batch)
        if buffers is None:
            tensors = {
                name: torch.empty(
                    tuple(self._context.get_tensor_shape(name)),
                    dtype=getattr(torch, dtype_name(self._engine.get_tensor_dtype(name))),
                    device=self._device,
                )
                for name in _tensor_names(self._engine)
            }
            host = torch.empty(shape, pin_memory=self._device == "cuda")
            buffers = self._buffers[batch] = _Buffers(host, tensors)
        for name, tensor in buffers.tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        self._bound = batch
        return buffers


def _tensor_names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _refuse_invalid(trt: Any, runtime: Any, data: bytes, path: Path) -> None:
    """Refuse an engine that TensorRT for RTX reports as invalid here; the message names its reasons."""
    if not hasattr(runtime, "get_engine_validity"):  # TensorRT reports it only when it opens the engine
        return
    validity, reasons = runtime.get_engine_validity(data)
    if validity == trt.EngineValidity.INVALID:
        flags = trt.EngineInvalidityDiagnostics.__members__.items()
        named = [name.lower().replace("_", " ") for name, flag in flags if int(reasons) & int(flag)]
        raise ExportError(f"{path} cannot run here ({', '.join(named) or 'no reason given'}): export it again here")


def _why_unavailable(flavour: Flavour) -> str | None:
    package = PACKAGES[flavour]
    if find_spec(package) is None:
        return f"{package} is not installed: pip install 'slimsight[{flavour}]'"
    return why_no_gpu()


def _runtime(flavour: Flavour) -> Runtime:
    # An engine runs on the GPU: threads of the host do not matter to it.
    return Runtime(
        flavour,
        (".engine",),
        lambda path, _device, _threads: TensorRtRunner(path, flavour),
        partial(_why_unavailable, flavour),
        packages=(PACKAGES[flavour],),
    )


RUNTIMES = (_runtime("tensorrt"), _runtime("tensorrt-rtx"))
