"""Packages for devices: a model's file with labels, preprocessing, scripts, golden images and a model card."""

from .hub import check_repository, push_to_hub
from .package import Packaged, PackageRequest, package_run
from .targets import PACKAGE_PRECISIONS, TARGET_NAMES, find_target
from .write import is_zip

__all__ = [
    "PACKAGE_PRECISIONS",
    "TARGET_NAMES",
    "PackageRequest",
    "Packaged",
    "check_repository",
    "find_target",
    "is_zip",
    "package_run",
    "push_to_hub",
]
