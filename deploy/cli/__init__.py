"""The commands of ``slimsight``; heavy packages (torch) are imported inside their functions."""

from .bench import bench
from .check import check
from .doctor import doctor
from .explain import explain
from .export import export
from .init import init, schema
from .inspect import inspect
from .package import package
from .quantize import quantize
from .report import report, status
from .run import run
from .trust import trust

COMMANDS = (init, doctor, run, export, quantize, package, inspect, bench, explain, trust, report, check, status, schema)
"""In the order that the help lists them."""

__all__ = ["COMMANDS"]
