"""The ONNX Runtime runner: ONNX files on the CPU, or on a GPU by CUDA or TensorRT, with bound buffers."""

from __future__ import annotations

import platform
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimsight.compress.errors import ExportError, RuntimeMissing

from ..onnx_files.graph import HEAVY_OPERATORS, runtime_errors
from ..onnx_files.metadata import stated_precision
from ..onnx_files.quantised import Form, stated_form
from ..onnx_files.runtime import import_onnxruntime as import_onnxruntime
from .base import BaseRunner, Runtime
from .cuda import GPU_INDEX, event_pair, gpu_stream, why_no_gpu
from .onnxruntime_session import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    cannot_start,
    layers_in_onnxruntime,
    open_session,
    times_in_onnxruntime,
    values_in_onnxruntime,
)


def why_slow_or_wrong(form: Form | None, provider: str = CPU_PROVIDER) -> str | None:
    """Why a file of an INT8 form must not run by ``provider`` on this machine; None where it may.

    ONNX Runtime's optimisations turn signed activations into unsigned ones on x86, and lose the ranges of some clipped
    values on the way: MobileNetV2 with random weights differs by its largest logit, and most convolutions fall back.
    """
    if form == "s8" and provider == CPU_PROVIDER and platform.machine().lower() in ("x86_64", "amd64"):
        return (
            "it is in the form s8, which is for TensorRT: ONNX Runtime on an x86 CPU runs it slowly, and wrongly for "
            "some networks; build an engine from it, or take the u8 file here"
        )
    return None


class OnnxRunner(BaseRunner):
    """Runs an ONNX file in ONNX Runtime: sequential, ``threads`` intra-op threads that do not spin, bound buffers.

    Spinning threads would take the core from a model that is timed in turn with this one. On a GPU, images and logits
    stay in its memory while the graph runs, and ``device_ms`` is the time of the graph alone.

    Args:
        path: the file; one input (batch, 3, H, W) fp32, one output (batch, classes).
        threads: intra-op threads.
        provider: the execution provider that must run it; ONNX Runtime's silent fall-back is refused.
        precision: what the file computes in, for reports; None: what its metadata state, else fp32. What TensorRT is
            given as fp32 it computes in ``tf32``.

    Raises:
        RuntimeMissing: on opening, when ONNX Runtime or the provider (its driver, its libraries) is missing.
        ExportError: on opening, when the file is missing or unusable, heavy nodes would run on another provider, or it
            is in an INT8 form that the provider computes slowly or wrongly here.
    """

    def __init__(
        self, path: Path, threads: int = 1, *, provider: str = CPU_PROVIDER, precision: str | None = None
    ) -> None:
        device = provider.removesuffix("ExecutionProvider").lower()
        super().__init__(path.name, f"onnxruntime-{device}", _shown_precision(precision or "fp32", provider))
        self._stated = precision
        self._path, self._threads, self._provider = path, threads, provider
        self._session: Any = None
        self._input = ""
        self._bound: dict[int, tuple[NDArray[np.float32], Any]] = {}  # batch size -> its buffer and binding
        self._gpu: _GpuBinding | None = None

    def _open(self) -> None:
        ort = import_onnxruntime()
        if not self._path.is_file():
            raise ExportError(f"there is no {self._path}: export the model to onnx first")
        available = ort.get_available_providers()
        if self._provider not in available:
            raise RuntimeMissing(f"ONNX Runtime has no {self._provider} here: choose from {', '.join(available)}")
        session = open_session(self._path, self._threads, self._provider)
        if session.get_providers()[0] != self._provider:
            raise cannot_start(self._provider)
        metadata = session.get_modelmeta().custom_metadata_map
        if (reason := why_slow_or_wrong(stated_form(metadata), self._provider)) is not None:
            raise ExportError(f"{self._path} is not run in ONNX Runtime here: {reason}")
        if self._stated is None:
            self.precision = _shown_precision(stated_precision(metadata), self._provider)
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            listed = ", ".join(f"{item.name}: {item.type} {item.shape}" for item in inputs)
            raise ExportError(f"{self._path} takes {listed}: one float input (batch, 3, H, W) is needed")
        if fallen_back := _nodes_on_cpu(session, self._provider):
            raise ExportError(
                f"ONNX Runtime would run {fallen_back} of {self._path} on the CPU and not by {self._provider}: time "
                "and compare it in another runtime"
            )
        self._runtime_errors = (MemoryError, RuntimeError, *runtime_errors())
        self._session, self._input = session, inputs[0].name
        sizes = tuple(inputs[0].shape[1:])
        self._image_shape = sizes if all(isinstance(size, int) for size in sizes) else None
        if self._provider != CPU_PROVIDER:
            self._gpu = _GpuBinding(session)

    def _close(self) -> None:
        self._bound.clear()
        self._gpu = self._session = None

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._gpu is not None:
            gpu_logits, self.device_ms = self._gpu.run(images)
            return gpu_logits
        buffer, binding = self._binding(images)
        np.copyto(buffer, images)
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0]
        return logits

    def _binding(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], Any]:
        """The input buffer and binding of this batch shape, made once per batch size."""
        bound = self._bound.get(len(images))
        if bound is None or bound[0].shape != images.shape:
            buffer = np.empty(images.shape, np.float32)
            binding = self._session.io_binding()
            binding.bind_cpu_input(self._input, buffer)
            binding.bind_output(self._session.get_outputs()[0].name, "cpu")
            bound = self._bound[len(images)] = (buffer, binding)
        return bound


class _GpuBinding:
    """A session's input and output, bound to GPU memory once for each batch size; one stream for copies and graph."""

    def __init__(self, session: Any) -> None:
        self._session, self._stream = session, gpu_stream()
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0]
        self._bound: dict[tuple[int, ...], tuple[Tensor, Tensor, Any]] = {}

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Logits (N, classes) in host memory, and the ms that the graph took on the GPU, without copies."""
        inputs, logits, binding = self._buffers(images.shape)
        start, end = event_pair()
        with torch.cuda.stream(self._stream):
            inputs.copy_(torch.from_numpy(images))
            start.record()
            self._session.run_with_iobinding(binding)
            end.record()
            result: NDArray[np.float32] = logits.cpu().numpy()  # waits for the stream
        end.synchronize()
        return result, float(start.elapsed_time(end))

    def _buffers(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Any]:
        bound = self._bound.get(shape)
        if bound is None:
            device = torch.device("cuda", GPU_INDEX)
            inputs = torch.empty(shape, device=device)
            logits = torch.empty((shape[0], int(self._output.shape[1])), device=device)
            binding = self._session.io_binding()
            binding.bind_input(self._input, "cuda", GPU_INDEX, np.float32, shape, inputs.data_ptr())
            name = self._output.name
            binding.bind_output(name, "cuda", GPU_INDEX, np.float32, tuple(logits.shape), logits.data_ptr())
            bound = self._bound[shape] = (inputs, logits, binding)
        return bound


def _shown_precision(precision: str, provider: str) -> str:
    return "tf32" if provider == TENSORRT_PROVIDER and precision == "fp32" else precision


def _nodes_on_cpu(session: Any, provider: str) -> str:
    """Names of heavy nodes that ONNX Runtime put on the CPU instead of ``provider``, a GPU's; "" if none."""
    if provider == CPU_PROVIDER or not hasattr(session, "get_provider_graph_assignment_info"):
        return ""
    on_cpu = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == CPU_PROVIDER]
    heavy = [node.name for part in on_cpu for node in part.get_nodes() if node.op_type in HEAVY_OPERATORS]
    more = f" and {len(heavy) - 3} more nodes" if len(heavy) > 3 else ""
    return ", ".join(heavy[:3]) + more


def _why_unavailable(provider: str) -> str | None:
    try:
        ort = import_onnxruntime()
    except RuntimeMissing as error:
        return str(error)
    if provider not in ort.get_available_providers():
        return f"this ONNX Runtime has no {provider}: pip install onnxruntime-gpu"
    return None if provider == CPU_PROVIDER else why_no_gpu()


def _runtime(name: str, provider: str) -> Runtime:
    on_cpu = provider == CPU_PROVIDER
    return Runtime(
        name,
        (".onnx",),
        lambda path, _device, threads: OnnxRunner(path, threads, provider=provider),
        partial(_why_unavailable, provider),
        layers_in_onnxruntime if on_cpu else None,
        # The layers of an engine cannot be read: those of the same graph in CUDA are.
        partial(values_in_onnxruntime, provider=CPU_PROVIDER if on_cpu else CUDA_PROVIDER),
        times_in_onnxruntime if on_cpu else None,
        packages=("onnxruntime-gpu", "onnxruntime"),
        refuses=partial(why_slow_or_wrong, provider=provider),
        proves_int8=on_cpu,  # the forms are for a processor, and for engines
        # TensorRT would build an engine of each branch: minutes for a provider that nobody would use.
        proves_routed=provider != TENSORRT_PROVIDER,
    )


RUNTIMES = (
    _runtime("onnxruntime-cpu", CPU_PROVIDER),
    _runtime("onnxruntime-cuda", CUDA_PROVIDER),
    _runtime("onnxruntime-tensorrt", TENSORRT_PROVIDER),
)
