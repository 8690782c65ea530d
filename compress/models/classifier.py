"""Classifier: normalisation as its first layer, so that it takes raw images in [0, 1]; checks that a network is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import ModelError
from ..modes import eval_mode, one_thread
from .user_code import UserCode, calling_line


class Normalize(nn.Module):
    """(x - mean) / std per channel. (N, 3, H, W) in [0, 1] -> (N, 3, H, W).

    Buffers ``mean`` and ``std`` (1, 3, 1, 1) are saved with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        assert min(std) > 0, f"std is {std}"
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """Normalisation, then the network. Raw images (N, 3, H, W) in [0, 1] -> logits (N, classes).

    ``changes``: what of the network is no longer as it was given (see ``adopt``), a sentence each.
    """

    changes: tuple[str, ...] = ()

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalize(x))
        return logits


# Products of activations: not counted in any layer's MACs, and their channels cannot be removed.
_ATTENTION = ("bmm", "baddbmm", "_native_multi_head_attention", "scaled_dot_product")


class ClassCountError(ModelError):
    """The model returns another number of logits than the data has classes."""


def check_classifier(model: nn.Module, side: int, classes: int) -> None:
    """Check that ``model`` maps images (2, 3, side, side) to logits (2, classes) in eval mode.

    Raises:
        ModelError: it does not; the message says what it returns (ClassCountError for the number of logits).
    """
    tensors = [*model.parameters(), *model.buffers()]
    images = torch.full((2, 3, side, side), 0.5, device=tensors[0].device if tensors else None)
    logits = check_logits(model, images)
    if logits != classes:
        raise ClassCountError(
            f"the model returns {logits} logits for {classes} classes of the data; both must be equal"
        )


@one_thread()
def check_logits(model: nn.Module, images: Tensor) -> int:
    """The number of classes of ``model``, from its logits in eval mode, after checking that it can be traced.

    It must compute the same layers for all images, and all of it in torch: otherwise a trace would be right only for
    one image, or for a part of the model.

    Args:
        images: (N, C, H, W), at least one.

    Raises:
        ModelError: it fails on ``images``, does not return one tensor of logits (N, classes), has data-dependent
            control flow, leaves autograd, or uses attention.
    """
    lazy = next((name for name, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)), None)
    if lazy is not None:
        raise ModelError(
            f"the model's '{lazy}' has no shape yet (a lazy layer): run the model once on an image, then hand it over"
        )
    images = images.detach().clone().requires_grad_()
    size = "x".join(map(str, images.shape[1:]))
    with eval_mode(model), UserCode(f"the model does not take {size} images"), torch.enable_grad(), _trace_guard():
        logits = model(images * 1)  # a copy: some models change their input
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the model returns {type(logits).__name__}; it must return one tensor of logits (N, classes): wrap it in "
            "a module that returns those"
        )
    if logits.dim() != 2 or len(logits) != len(images):
        raise ModelError(
            f"the model returns shape {tuple(logits.shape)} for {len(images)} images; it must return logits "
            f"({len(images)}, classes)"
        )
    _check_gradient(logits, images)
    return logits.shape[1]


def _check_gradient(logits: Tensor, images: Tensor) -> None:
    """Gates are learned by gradients, and channels are traced through the autograd graph."""
    try:
        connected = logits.requires_grad and torch.autograd.grad(logits.sum(), images, allow_unused=True)[0] is not None
    except RuntimeError as error:
        reason = str(error).split(":")[0]
        raise ModelError(
            f"torch cannot compute the model's gradients ({reason}): replace in-place operations on what is still "
            "needed (x += y by x = x + y, ReLU(inplace=True) by ReLU())"
        ) from error
    if not connected:
        raise ModelError(
            "no gradient of the model's logits reaches its images: it leaves autograd on the way "
            "(torch.no_grad, detach, numpy); take that out of its forward()"
        )


class _TraceGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context: refuses data-dependent control flow and attention, which a trace cannot represent."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            raise ModelError(
                f"the model turns a tensor into a Python value ({calling_line()}), so what it computes can depend on "
                "the image: only models that compute the same layers for every image can be slimmed"
            )
        if any(product in name for product in _ATTENTION):
            raise ModelError(
                f"the model multiplies activations with each other, as attention does ({calling_line()}): only "
                "convolutional networks can be slimmed"
            )
        return func(*args, **(kwargs or {}))


def _trace_guard() -> TorchDispatchMode:
    return _TraceGuard()  # type: ignore[no-untyped-call]
