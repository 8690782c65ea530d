"""Costs of a model by layer: MACs, parameters, bytes and measured times."""
