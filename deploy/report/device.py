"""Part of report.json on devices: what the package's verify.py measured where the model runs."""

from __future__ import annotations

from pydantic import AwareDatetime

from slimsight.compress.config import Count, Positive

from .parts import Measured, ReportPart, Share, Whole


class DeviceFigures(ReportPart):
    """A file of the run on a device, as ``verify.py`` of its package measured it.

    ``artifact``: the run's file; ``threads``: 0 where the runtime chose. ``median_ms`` of single calls with one image,
    with its 95 % interval by order statistics. ``difference``: largest of golden images' logits, relative to their
    largest logit; ``agreement``: share of the images with the same class. ``passed``: the device computes what the run
    computed; ``why``: what does not fit. ``noise``: why the times are not to be relied on.
    """

    device: str
    runtime: str
    artifact: str
    sha256: str
    precision: str
    threads: Whole
    calls: Count
    median_ms: Positive
    low_ms: Positive
    high_ms: Positive
    images: Count
    difference: Measured
    agreement: Share
    passed: bool
    why: str | None = None
    noise: tuple[str, ...] = ()
    measured: AwareDatetime

    @property
    def where(self) -> str:
        """The conditions of the figures: ``Raspberry Pi 5, onnxruntime 1.31.1 fp32, 1 thread``."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        return f"{self.device}, {self.runtime} {self.precision}{threads}"
