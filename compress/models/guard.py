"""Watches one forward pass for what cannot be slimmed: branches on values, attention, randomness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..dispatch import PRODUCTS, WeightsMode
from ..errors import ModelError
from .user_code import calling_line

_ATTENTION = ("_native_multi_head_attention", "scaled_dot_product")


class TraceGuard(WeightsMode):  # type: ignore[no-untyped-call]
    """Context: refuses data-dependent control flow and attention, which a trace cannot represent.

    Attention is a product of two activations. A product with weights is a linear layer, however torch computes it: of
    maps (N, H, W, C) and tokens (N, L, C) as one of batched matrices.

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
        product = name in PRODUCTS and all(map(self.is_activation, inputs[-2:]))
        if product or any(kind in name for kind in _ATTENTION):
            raise ModelError(
                f"the model multiplies activations with each other, as attention does ({calling_line()}): only "
                "convolutional networks can be slimmed"
            )
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
