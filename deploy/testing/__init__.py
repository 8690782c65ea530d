"""Assertions on what a model costs, for any test:

    from slimsight.testing import assert_macs

    def test_fits_the_phone():
        assert_macs(build(10), "3x224x224", max="60M")

A failure names the figure, the limit, the excess, and the three layers that cost most. The pytest plugin gives the same
functions as a fixture, ``slimsight``, which also writes the figures into JUnit files.
"""

from .budget import assert_budget
from .costs import assert_macs, assert_params, assert_size
from .latency import assert_latency

__all__ = ["assert_budget", "assert_latency", "assert_macs", "assert_params", "assert_size"]
