"""Batch normalisation and dropout over the global batch: a split batch gives the results of one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .processes import current_shard, random_per_image, world_size

_HALF = (torch.float16, torch.bfloat16)


class GlobalBatch(TorchFunctionMode):
    """Context: batch normalisation in training mode uses the statistics of all processes' images together.

    Dropout draws for the global batch, too (see ``random_per_image``). Overrides ``torch.nn.functional``, so that no
    module is replaced and names in state dicts stay; ``nn.SyncBatchNorm`` needs GPUs and modules. The block must
    include the backward pass, in which checkpointed layers run again.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        return _OVERRIDES.get(function, function)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` over the rows of all processes."""
    if not training or world_size() == 1:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    normalised: Tensor
    normalised, mean, variance, count = _GlobalBatchNorm.apply(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            for running, new in ((running_mean, mean), (running_var, variance * (count / (count - 1)))):
                running.mul_(1 - momentum).add_(new.to(running), alpha=momentum)
    return normalised


class _GlobalBatchNorm(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, statistics per channel over all processes' images.

    With xhat the normalised x and g the gradient of the output, that of x is weight / deviation times
    g - mean(g) - xhat * mean(g xhat), means over all of them (Ioffe and Szegedy 2015, section 3). Each process sums
    in float32 over its own images and all add up in float64.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims, shape = _non_channel_dims(x), _per_channel_shape(x)
        variance, mean = torch.var_mean(x.float() if x.dtype in _HALF else x, dims, correction=0)
        here = x.numel() // x.shape[1]
        first, second = mean.double(), variance.double()
        sums = torch.cat([first * here, (second + first.square()) * here, first.new_tensor([here])])
        dist.all_reduce(sums)
        count = sums[-1]
        means, squares = (sums[:-1] / count).chunk(2)
        variance = (squares - means.square()).clamp_min(0)
        dtype = mean.dtype
        scale = (variance + eps).rsqrt().to(dtype)
        ctx.save_for_backward(x, weight, means.to(dtype), scale, count)
        ctx.mark_non_differentiable(means, variance, count)
        factor = scale if weight is None else scale * weight
        offset = -means.to(dtype) * factor if bias is None else bias - means.to(dtype) * factor
        y = torch.addcmul(offset.view(shape), x, factor.view(shape)).to(x.dtype)
        return y, means, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        dims, shape = _non_channel_dims(x), _per_channel_shape(x)
        g = gradient.to(mean.dtype)
        xhat = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        of_bias, of_weight = g.sum(dims), (g * xhat).sum(dims)
        sums = torch.cat([of_bias, of_weight]).double()
        dist.all_reduce(sums)
        first, second = (sums / count).to(mean.dtype).chunk(2)
        factor = scale if weight is None else scale * weight
        of_input = ((g - first.view(shape) - xhat * second.view(shape)) * factor.view(shape)).to(x.dtype)
        if weight is None:
            return of_input, None, None, None
        return of_input, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


def _non_channel_dims(x: Tensor) -> tuple[int, ...]:
    """All dimensions but the channels' (1)."""
    return 0, *range(2, x.dim())


def _per_channel_shape(x: Tensor) -> tuple[int, ...]:
    """(1, C, 1, ...): broadcasts a value per channel over ``x``."""
    return 1, -1, *[1] * (x.dim() - 2)


def _keep_leading_dims(x: Tensor, axes: int) -> Tensor:
    """A view of ``x`` with size 1 in all dimensions after the first ``axes``."""
    for dim in range(axes, x.dim()):
        x = x.narrow(dim, 0, 1)
    return x


def _dropout(axes: int | None) -> Callable[..., Tensor]:
    """Dropout of single values (``axes`` None), or of complete slices after the first ``axes`` dimensions."""

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        like = input if axes is None else _keep_leading_dims(input, axes)
        kept = random_per_image(like.detach(), lambda empty: empty.bernoulli_(1 - p))
        kept = kept.div_(1 - p) if p < 1 else kept
        return input.mul_(kept) if inplace else input * kept

    return dropout


def _bernoulli_(input: Tensor, p: Any = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """``Tensor.bernoulli_`` for stochastic depth: drawn for the global batch if ``input`` has one row per image."""
    part = current_shard()
    if generator is not None or isinstance(p, Tensor) or part is None or len(input) != part.stop - part.start:
        return input.bernoulli_(p, generator=generator)
    return input.copy_(random_per_image(input, lambda empty: empty.bernoulli_(p)))


_OVERRIDES: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.dropout: _dropout(None),
    F.dropout1d: _dropout(2),
    F.dropout2d: _dropout(2),
    F.dropout3d: _dropout(2),
    Tensor.bernoulli_: _bernoulli_,
}
