"""Parity: whether an exported file computes what the PyTorch model computes, and where it first differs."""
