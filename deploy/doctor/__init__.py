"""Which parts of slimsight work on this machine; heavy libraries are tried in processes of their own."""

from .diagnosis import AREAS, Diagnosis, diagnose
from .probing import Finding

__all__ = ["AREAS", "Diagnosis", "Finding", "diagnose"]
