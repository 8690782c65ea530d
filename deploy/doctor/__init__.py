"""What works on this machine and what does not, found without trusting any of it."""

from .findings import AREAS, Diagnosis, Finding, diagnose

__all__ = ["AREAS", "Diagnosis", "Finding", "diagnose"]
