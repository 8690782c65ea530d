"""What a device measured: ``verify.json`` of a package read, its arithmetic checked, and its model found in the run."""

from .evidence import Evidence, read_evidence
from .limits import LIMITS, GoldenLimits
from .of_run import device_figures, find_artifact, keep_evidence, kept_figures

__all__ = [
    "LIMITS",
    "Evidence",
    "GoldenLimits",
    "device_figures",
    "find_artifact",
    "keep_evidence",
    "kept_figures",
    "read_evidence",
]
