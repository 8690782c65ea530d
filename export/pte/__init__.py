"""ExecuTorch's ``.pte`` files: lowering a model through XNNPACK, and reading back what runs where."""
