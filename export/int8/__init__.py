"""INT8: quantisation of ONNX files, the precision that a runtime really uses, and the proof of each file."""
