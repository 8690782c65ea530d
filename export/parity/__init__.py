"""Parity: comparison of exported files with the PyTorch model, and the first layer that differs."""
