"""Building TensorRT engines from ONNX files, for TensorRT and TensorRT for RTX."""
