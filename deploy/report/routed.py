"""The dynamic variant's part of report.json."""

from __future__ import annotations

from slimsight.compress.config import Count, NonNegative, Positive

from .part import Part, Share, Whole


class RouteFigures(Part):
    """A route of the dynamic variant, judged by the information bottleneck (bits of the dense network).

    ``channels``: how many hold 90 % of the bits; ``covered``: share of those that the route opens;
    ``accepted``: share of the images whose choice opens enough of them.
    """

    route: str
    bits_per_pixel: NonNegative
    bits_per_channel: NonNegative
    channels: NonNegative
    open_channels: NonNegative
    covered: Share
    accepted: Share


class VerificationFigures(Part):
    """Choices judged offline: what runs when the layers of refused choices run dense instead."""

    images: Count
    accepted: Share
    macs: NonNegative
    macs_with_dense: NonNegative
    accuracy: Share
    accuracy_with_dense: Share
    routes: tuple[RouteFigures, ...]


class DynamicFigures(Part):
    """The dynamic variant: MACs are means over validation images, heads included.

    ``masks``: by route, how many masks still differ. ``route_agreement``: share of the choices that the exported
    files make like PyTorch. The routed form is what ``latency`` times.
    """

    macs_max: Positive
    macs_mean: NonNegative
    val_accuracy: Share
    test_accuracy: Share | None
    masks: tuple[Count, ...]
    branches: Whole
    route_agreement: Share
    verification: VerificationFigures
