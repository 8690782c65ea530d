"""Amortized explainers: a selector on the classifier's own features predicts a map in one forward pass."""
