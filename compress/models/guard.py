"""Watches one forward pass for what cannot be slimmed: branches on values; notes what draws random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..dispatch import WeightsMode
from ..errors import ModelError
from .user_code import calling_line


class TraceGuard(WeightsMode):  # type: ignore[no-untyped-call]
    """Context: refuses data-dependent control flow, which a trace cannot represent.

    Attributes:
        random: the lines that drew random numbers, in order.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.random: list[str] = []

    def before(self, func: Any, inputs: Sequence[Tensor]) -> None:
        """See ``WeightsMode``."""
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            _refuse_value(of_images=self.is_activation(inputs[0]))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random.append(calling_line())


def _refuse_value(*, of_images: bool) -> None:
    """Refuse a Python value: that of an image may decide anything, and no exporter follows that of a weight."""
    if of_images:
        raise ModelError(
            f"the model turns a tensor into a Python value ({calling_line()}), so what it computes can depend on "
            "the image: only models that compute the same layers for every image can be slimmed"
        )
    raise ModelError(
        f"the model turns a tensor of its own into a Python value ({calling_line()}), which exporters cannot follow: "
        "keep a Python number or bool in place of the tensor, or compute with the tensor"
    )
