"""Rounding as an INT8 file does it, with gradients: the straight-through estimator, and learned scales.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv:1712.05877), section 3: values are rounded in the forward pass, and gradients pass as if they were not. The
gradient of a scale is that of Esser et al. 2020, "Learned Step Size Quantization" (arXiv:1902.08153), Eq. 3.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

WEIGHT_BOUND: Final = 127
"""Largest int8 weight: symmetric, as onnxruntime.quantization has it."""

_BIAS_BOUND: Final = 2**31 - 1
_BIAS_MARGIN: Final = 1.0001
"""onnxruntime.quantization raises a weight's scale where its bias would not fit int32, by this factor more."""


class FakeQuantise(torch.autograd.Function):
    """``apply(values, scale, zero_point, low, high)``: values rounded to ``scale`` x (q - ``zero_point``).

    q is between ``low`` and ``high``; ``scale`` is a scalar tensor, the others are integers.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: int, low: int, high: int) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.levels = (low - zero_point, high - zero_point)
        return (values / scale).round_().clamp_(*ctx.levels).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = gradients
        values, scale = ctx.saved_tensors
        least, most = ctx.levels
        scaled = values / scale
        rounded = scaled.round()
        inside = (rounded >= least) & (rounded <= most)
        of_scale = torch.where(inside, rounded - scaled, rounded.clamp(least, most))
        return gradient * inside, (gradient * of_scale).sum(), None, None, None


def weight_scale(
    weight: Tensor, axis: int | None, *, bias: Tensor | None = None, input_scale: Tensor | None = None
) -> Tensor:
    """The scale of a symmetric int8 weight, that of its largest value: one for each index of ``axis``, None: one.

    Args:
        bias: (C,), which has to fit int32 in steps of ``input_scale`` x the result.

    Returns:
        Of a shape that multiplies ``weight``.
    """
    others = [k for k in range(weight.dim()) if axis is None or k != axis % weight.dim()]
    scale = weight.detach().abs().amax(dim=others, keepdim=True) / WEIGHT_BOUND if others else weight.detach().abs()
    scale = torch.where(scale < torch.finfo(scale.dtype).tiny, torch.ones_like(scale), scale)
    if bias is None or input_scale is None:
        return scale
    largest = bias.detach().abs()
    least = _BIAS_MARGIN * (largest.reshape(scale.shape) if scale.numel() > 1 else largest.max()) / _BIAS_BOUND
    return torch.maximum(scale, least / input_scale.detach())


def round_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """``weight`` in whole steps of ``scale``, with the gradient of ``weight``."""
    rounded = (weight.detach() / scale).round().clamp(-WEIGHT_BOUND, WEIGHT_BOUND) * scale
    return weight + (rounded - weight.detach())


def round_bias(bias: Tensor, input_scale: Tensor, scale: Tensor) -> Tensor:
    """``bias`` (C,) in whole steps of ``input_scale`` x its layer's weight ``scale``, with the gradient of ``bias``."""
    step = (input_scale.detach() * scale).flatten()
    return bias + ((bias.detach() / step).round() * step - bias.detach())
