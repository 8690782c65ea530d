"""Export of models to ONNX, ``.pt2`` and TensorRT, runners for each runtime, and proof of parity."""
