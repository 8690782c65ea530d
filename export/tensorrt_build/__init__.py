"""TensorRT engines built from ONNX, for TensorRT and TensorRT for RTX."""
