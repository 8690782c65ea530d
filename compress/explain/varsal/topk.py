"""Soft top-k: a differentiable mask that sums to k, highest for the largest scores (Xie et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...errors import ConfigError

EPSILON = 0.1
"""Entropic regularisation, the softness: towards 0 the mask becomes that of torch.topk."""

_STEPS = 200
_TOLERANCE = 1e-13


def soft_top_k(scores: Tensor, k: Tensor | float, epsilon: float = EPSILON) -> Tensor:
    """Soft mask of the k largest scores: sigmoid((2 s - 1) / epsilon + t), with t such that the sum is k.

    Entropic optimal transport of the scores to the two anchors 0 and 1 with squared distances, in closed form
    (Xie et al. 2020): Sinkhorn's iterations reduce to one number t per sample. s are the scores of a sample, scaled
    to [0, 1]; the largest distance, by which the method scales epsilon, is then 1. Gradients (once) flow to the
    scores by the implicit function theorem, and through the scaling; none to k.

    A sample whose scores are all equal gets k / n everywhere, with a gradient of 0.

    Args:
        scores: (N, ...) float32 or float64; each sample's n values are ranked together.
        k: how many to keep, 0 < k < n; a number, or (N,) one per sample.

    Returns:
        Shape of ``scores``, 0 to 1; each sample sums to k (1e-6, relative to k in float32).

    Raises:
        ConfigError: k or epsilon is out of range.
    """
    flat = scores.flatten(1)
    count = flat.shape[1]
    kept = torch.as_tensor(k, dtype=torch.float64, device=scores.device).expand(len(flat))
    if not bool(((kept > 0) & (kept < count)).all()):
        given = kept[~((kept > 0) & (kept < count))][0]
        raise ConfigError(f"top-k of {given:g} out of {count} pixels: k must be more than 0 and less than {count}")
    if not epsilon > 0:
        raise ConfigError(f"the soft top-k's epsilon is {epsilon:g}; it must be more than 0 (default {EPSILON:g})")
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    span = high - low
    same = span == 0
    scaled = torch.where(same, 0.5, (flat - low) / torch.where(same, 1.0, span))
    mask: Tensor = _SigmoidSumTo.apply((2 * scaled - 1) / epsilon, kept)
    return mask.reshape(scores.shape)


class _SigmoidSumTo(torch.autograd.Function):
    """sigmoid(logits + t), t (N,) such that each row (N, n) sums to k.

    With w = m (1 - m), differentiating sum(m) = k gives dt = -<w, da> / sum(w), hence the gradient
    w * (g - <w, g> / sum(w)).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: Tensor) -> Tensor:
        wide = logits.double()  # in float32 one rounding step of t moves sums of 50,000 pixels by 1e-2
        mask = torch.sigmoid(wide + _find_shift(wide, k)[:, None])
        ctx.save_for_backward(mask)
        return mask.to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        weight = mask * (1 - mask)
        total = weight.sum(1, keepdim=True)
        wide = gradient.double()
        mean = (weight * wide).sum(1, keepdim=True) / torch.where(total > 0, total, 1.0)  # 0: a hard mask, w = 0
        return (weight * (wide - mean)).to(gradient.dtype), None


def _find_shift(logits: Tensor, k: Tensor) -> Tensor:
    """(N,) t with sum(sigmoid(logits + t)) = k: Newton's method, with bisection where a step leaves the bracket."""
    middle = torch.logit(k / logits.shape[1])
    low, high = middle - logits.amax(1), middle - logits.amin(1)  # every sigmoid below, or above, the mean k / n
    t = (low + high) / 2
    for _ in range(_STEPS):
        mask = torch.sigmoid(logits + t[:, None])
        excess = mask.sum(1) - k
        if bool((excess.abs() <= _TOLERANCE * logits.shape[1]).all()):
            break
        low, high = torch.where(excess < 0, t, low), torch.where(excess > 0, t, high)
        newton = t - excess / (mask * (1 - mask)).sum(1)
        t = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
    return t
