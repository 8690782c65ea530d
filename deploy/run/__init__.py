"""``slimsight run``: the pipeline, its stages, and what they share."""
