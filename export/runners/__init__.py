"""One protocol over runtimes: open an artefact, give it images, get logits."""

from .base import BaseRunner, Runner, to_input
from .in_onnxruntime import OnnxRunner, import_onnxruntime, open_session
from .in_tensorrt import TensorRtRunner
from .in_torch import Pt2Runner, TorchRunner

__all__ = [
    "BaseRunner",
    "OnnxRunner",
    "Pt2Runner",
    "Runner",
    "TensorRtRunner",
    "TorchRunner",
    "import_onnxruntime",
    "open_session",
    "to_input",
]
