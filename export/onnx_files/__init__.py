"""ONNX files: opened safely, tidied, described by metadata, and typed."""
