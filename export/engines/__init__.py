"""TensorRT engines: which runtime, what for, how they are built, and what is really inside."""
