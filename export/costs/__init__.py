"""Costs of a model, layer by layer: MACs, parameters, bytes and measured times."""
