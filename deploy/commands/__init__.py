"""The commands of ``slimsight``, one module each; what is heavy (torch) is imported inside the function."""

from .check import check
from .export import export
from .inspect import inspect
from .run import run
from .status import status

COMMANDS = (run, export, inspect, check, status)
"""In the order that the help lists them."""

__all__ = ["COMMANDS"]
