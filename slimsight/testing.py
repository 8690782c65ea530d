"""Assertions for tests of your own: a model's MACs, parameters, bytes, latency, or a whole budget file."""

from __future__ import annotations

from .deploy.testing import assert_budget, assert_latency, assert_macs, assert_params, assert_size

__all__ = ["assert_budget", "assert_latency", "assert_macs", "assert_params", "assert_size"]
