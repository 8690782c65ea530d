"""What works on this machine and what does not, found without trusting any of it."""

from .diagnosis import AREAS, Diagnosis, diagnose
from .probing import Finding

__all__ = ["AREAS", "Diagnosis", "Finding", "diagnose"]
