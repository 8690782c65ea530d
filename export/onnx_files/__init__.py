"""ONNX files: safe reading, queries on graphs, clean-up after torch's exporter, metadata, element types."""
