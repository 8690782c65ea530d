"""Checks that a network can be traced: the same layers for all images, twice the same outputs, all of it in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ModelError, first_error_line
from ..modes import double_precision, eval_mode, one_thread
from ..modules import copy_of
from ..outputs import ROOT, name_tensors
from .guard import TraceGuard
from .user_code import UserCode

Outputs = Mapping[str, Tensor]
"""Outputs of a network by their names (``name_tensors``)."""


@one_thread()
def check_logits(model: nn.Module, images: Tensor) -> int:
    """The number of classes of ``model``, from its logits in eval mode, after checking that it can be traced.

    Args:
        images: (N, C, H, W), at least one.

    Raises:
        ModelError: as ``check_outputs``; or it does not return one tensor of logits (N, classes).
    """
    return check_outputs(model, images, logits=True)[ROOT][1]


@one_thread()
def check_outputs(model: nn.Module, images: Tensor, *, logits: bool = False) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that ``model`` returns in eval mode, by name, after checking that it can be traced.

    It must compute the same layers for all images and all numbers of them, twice the same, and all of it in torch:
    otherwise a trace would be right only for one image, or for a part of the model.

    Args:
        images: (N, C, H, W), at least one.
        logits: the outputs must be one tensor of logits (N, classes).

    Raises:
        ModelError: it fails on ``images``, returns no tensor, has data-dependent control flow, leaves autograd, is
            random, or depends on the number of images.
    """
    images = images.detach().clone().requires_grad_()
    size = "x".join(map(str, images.shape[1:]))
    with eval_mode(model), torch.random.fork_rng(devices=[]):
        guard = TraceGuard(images)
        with UserCode(f"the model does not take {size} images"), torch.enable_grad(), guard:
            returned = model(images * 1)  # a copy: some models change their input
        if logits:
            _check_is_logits(returned, len(images))
        outputs = name_tensors(returned)
        if not outputs:
            raise ModelError(
                f"the model returns {type(returned).__name__} without a tensor in it: return tensors, in any nest of "
                "tuples, lists, dicts and dataclasses"
            )
        _check_finite(outputs)
        _check_gradient(outputs, images)
        with torch.no_grad():
            _check_deterministic(model, images.detach(), guard.random)
            _check_batch(model, images.detach())
    return {name: tuple(tensor.shape) for name, tensor in outputs.items()}


def _check_is_logits(returned: Any, images: int) -> None:
    if not isinstance(returned, Tensor):
        raise ModelError(
            f"the model returns {type(returned).__name__}; it must return one tensor of logits (N, classes): wrap it "
            "in a module that returns those"
        )
    if returned.dim() != 2 or len(returned) != images:
        raise ModelError(
            f"the model returns shape {tuple(returned.shape)} for {images} images; it must return logits "
            f"({images}, classes)"
        )


def _in_words(name: str, outputs: Outputs) -> str:
    """``logits`` of a model that returns nothing else, else the output by its name."""
    if name == ROOT:
        return "logits" if outputs[name].dim() == 2 else "output"
    return f"output '{name}'"


def _check_finite(outputs: Outputs) -> None:
    for name, values in outputs.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            first = ", ".join(f"{value:.3g}" for value in values.detach().flatten()[:3].tolist())
            what = _in_words(name, outputs)
            is_are, numbers = ("are", "finite numbers") if what == "logits" else ("is", "made of finite numbers")
            raise ModelError(
                f"the model's {what} {is_are} not {numbers} for images in [0, 1] ({first}, ...): its "
                "weights or its normalisation are broken"
            )


def _check_deterministic(model: nn.Module, images: Tensor, drawn: Sequence[str]) -> None:
    first, second = name_tensors(model(images * 1)), name_tensors(model(images * 1))
    for name, values in first.items():
        again = second.get(name)
        atol = 0.0 if images.device.type == "cpu" or not values.numel() else 1e-4 * float(values.abs().max())
        if again is not None and values.shape == again.shape and _equal(values, again, atol):
            continue
        where = f" ({drawn[0]})" if drawn else ""
        what = (
            f"draws random numbers in eval mode{where}"
            if drawn
            else "changes what it keeps, or computes with what is not torch's (random, numpy, the time)"
        )
        raise ModelError(
            f"the model gives other {_in_words(name, first)} when it sees the same images twice: it {what}; make it "
            "deterministic in eval mode (F.dropout needs training=self.training)"
        )


def _equal(ours: Tensor, theirs: Tensor, atol: float) -> bool:
    return torch.allclose(ours.double(), theirs.double(), rtol=0, atol=atol, equal_nan=True)


def _check_batch(model: nn.Module, images: Tensor) -> None:
    """Raise ModelError where what an image gives, or its shape, depends on how many images there are."""
    # The others differ much from the first: what leaks from them must not drown in rounding.
    pair = torch.cat([images[:1], 1 - 2 * images[1 if len(images) > 1 else 0 :].flip(-1)])
    together, turned, alone = _run(model, pair), _run(model, pair.flip(0)), _run(model, pair[:1])
    _check_shapes(together, turned, alone, len(pair))
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    if any(norm.running_mean is None for norm in norms):
        return  # norms without statistics take those of the batch
    leaking = [name for name in alone if not _alike(name, together, turned, alone, len(pair), 1e-3)]
    if not leaking:
        return
    try:  # rounding, where outputs are small differences of large numbers?
        exact, wide = copy_of(model).double(), pair.double()
        with double_precision():
            runs = _run(exact, wide), _run(exact, wide.flip(0)), _run(exact, wide[:1])
        if all(_alike(name, *runs, len(pair), 1e-6) for name in leaking):
            return
    except (RuntimeError, ModelError):
        return  # it does not compute in double precision, so nothing is known
    raise ModelError(
        f"the model's {_in_words(leaking[0], alone)} of an image depend on the images beside it (a mean over the "
        "batch, batch statistics in eval mode?): only models that treat each image on its own can be slimmed"
    )


def _check_shapes(together: Outputs, turned: Outputs, alone: Outputs, pair: int) -> None:
    """Every output has a row for each image, or is the same for any number of them (anchors)."""
    remedy = "name the dimension that a squeeze() drops, and flatten with flatten(1)"
    for outputs, count in ((alone, 1), (together, pair), (turned, pair)):
        if list(outputs) != list(alone):
            raise ModelError(
                f"the model returns other outputs for {_counted(count)} than for one: its outputs depend on the number "
                "of images, and a slim model takes any; return the same for all"
            )
        for name, values in outputs.items():
            rows = values.dim() > 0 and len(values) == count and values.shape[1:] == alone[name].shape[1:]
            logits = name == ROOT and list(outputs) == [ROOT]
            fixed = not logits and values.shape == alone[name].shape == together[name].shape
            if not rows and not fixed:
                what = "" if name == ROOT else f"'{name}' of "
                raise ModelError(
                    f"the model returns {what}{tuple(values.shape)} for {_counted(count)}: its shapes depend on the "
                    f"number of images, and a slim model takes any; {remedy}"
                )


def _alike(name: str, together: Outputs, turned: Outputs, alone: Outputs, pair: int, tolerance: float) -> bool:
    """Whether an output of an image is the same alone, before others and after them."""
    first, last, own = together[name], turned[name], alone[name]
    if own.dim() and len(own) == 1 and len(first) == pair:
        first, last = first[:1], last[-1:]
    return is_close(first, own, tolerance) and is_close(last, own, tolerance)


def _run(model: nn.Module, images: Tensor) -> Outputs:
    with UserCode(f"the model takes images, but not {_counted(len(images))} at once"):
        return name_tensors(model(images * 1))


def _counted(images: int) -> str:
    return f"{images} image" if images == 1 else f"{images} images"


def is_close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by no more than ``tolerance``, relative to the largest value of ``theirs``."""
    if not theirs.numel():
        return ours.shape == theirs.shape
    largest = float(theirs.double().abs().nan_to_num(0.0, 0.0, 0.0).max())
    return bool(torch.allclose(ours, theirs, rtol=0, atol=tolerance * largest, equal_nan=True))


def _check_gradient(outputs: Outputs, images: Tensor) -> None:
    """Gates are learned by gradients, and channels are traced through the autograd graph."""
    single = list(outputs) == [ROOT]
    values = [tensor for tensor in outputs.values() if tensor.requires_grad]
    try:
        total = sum((tensor.sum() for tensor in values), torch.zeros((), device=images.device))
        connected = bool(values) and torch.autograd.grad(total, images, allow_unused=True)[0] is not None
    except RuntimeError as error:
        in_place = "inplace" in str(error)
        remedy = (
            "replace in-place operations on what is still needed (x += y by x = x + y, ReLU(inplace=True) by ReLU())"
            if in_place
            else "gates are learned by gradients, so let torch.autograd.grad reach the images"
        )
        reason = str(error).split(":")[0] if in_place else first_error_line(error)
        raise ModelError(f"torch cannot compute the model's gradients ({reason}): {remedy}") from error
    if not connected:
        raise ModelError(
            f"no gradient of the model's {'logits' if single else 'outputs'} reaches its images: it leaves autograd on "
            "the way (torch.no_grad, detach, argmax, numpy); take that out of its forward()"
        )
