"""TensorRT engines: runtimes, the key beside each engine, its layers read back, and the result of an export."""
