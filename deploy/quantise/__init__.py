"""``slimsight quantize`` and ``slimsight.quantize``: an INT8 file of any FP32 ONNX file, and its proof."""

from slimsight.export.int8.make import Int8Model

from .folder import quantise_from_folder
from .model import quantize

__all__ = ["Int8Model", "quantise_from_folder", "quantize"]
