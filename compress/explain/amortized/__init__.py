"""Amortized explainers: a selector on the classifier's own features gives a map in one forward pass (ISP, REAL-X)."""
