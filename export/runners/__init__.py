"""One protocol over runtimes: open an artefact, give it images, get logits."""

from .base import BaseRunner, Runner, RuntimeMissing, refuse_not_finite, to_input
from .in_onnxruntime import CPU, CUDA, TENSORRT, OnnxRunner, import_onnxruntime, open_session
from .in_tensorrt import TensorRtRunner
from .in_torch import CompiledRunner, Pt2Runner, TorchRunner

__all__ = [
    "CPU",
    "CUDA",
    "TENSORRT",
    "BaseRunner",
    "CompiledRunner",
    "OnnxRunner",
    "Pt2Runner",
    "Runner",
    "RuntimeMissing",
    "TensorRtRunner",
    "TorchRunner",
    "import_onnxruntime",
    "open_session",
    "refuse_not_finite",
    "to_input",
]
