"""Watches one forward pass for what cannot be slimmed: branches on values, attention, randomness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.random: list[str] = []

    def before(self, func: Any, inputs: Sequence[Tensor]) -> None:
        """See ``WeightsMode``."""
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            raise ModelError(
                f"the model turns a tensor into a Python value ({calling_line()}), so what it computes can depend on "
                "the image: only models that compute the same layers for every image can be slimmed"
            )
        product = name in PRODUCTS and not any(map(self.is_constant, inputs[-2:]))
        if product or any(kind in name for kind in _ATTENTION):
            raise ModelError(
                f"the model multiplies activations with each other, as attention does ({calling_line()}): only "
                "convolutional networks can be slimmed"
            )
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random.append(calling_line())
