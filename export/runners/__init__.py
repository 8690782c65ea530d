"""Runners: one interface over PyTorch, ONNX Runtime, OpenVINO and TensorRT. See ``choose`` for how to add a runtime."""

from ..onnx_files.runtime import import_onnxruntime
from .base import BaseRunner, Runner, Runtime, refuse_not_finite, to_input
from .in_onnxruntime import OnnxRunner
from .in_openvino import OpenVinoRunner
from .in_tensorrt import TensorRtRunner
from .in_torch import CompiledRunner, Pt2Runner, TorchRunner
from .onnxruntime_session import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER, open_session

__all__ = [
    "CPU_PROVIDER",
    "CUDA_PROVIDER",
    "TENSORRT_PROVIDER",
    "BaseRunner",
    "CompiledRunner",
    "OnnxRunner",
    "OpenVinoRunner",
    "Pt2Runner",
    "Runner",
    "Runtime",
    "TensorRtRunner",
    "TorchRunner",
    "import_onnxruntime",
    "open_session",
    "refuse_not_finite",
    "to_input",
]
