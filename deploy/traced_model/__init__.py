"""What ``trace`` gives, and the ONNX file of what ``slim`` makes of it."""
