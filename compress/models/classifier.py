"""Classifier: normalisation as its first layer, so that it takes raw images in [0, 1]; checks that a network is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..errors import ModelError, first_error_line
from ..modes import double_precision, eval_mode, one_thread, training_structure
from ..modules import copy_of
from .guard import TraceGuard
from .user_code import UserCode


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

    A network with auxiliary heads may return more in training mode: ``main_logits`` of it are taken, so that its
    trainings learn from the logits alone.

    ``changes``: what of the network is no longer as it was given (see ``adopt``), a sentence each.
    """

    changes: tuple[str, ...] = ()

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.normalize(x))

    def logits(self, normalized: Tensor) -> Tensor:
        """(N, classes) of images that are normalised already."""
        logits: Tensor = self.net(normalized)
        return main_logits(logits) if self.training else logits


def main_logits(outputs: Any) -> Any:
    """What of ``outputs`` a network with auxiliary heads also returns in eval mode (``check_training`` proves it).

    ``logits`` or ``out`` of a dict or a named tuple, else the first of its values, of a tuple or of a list.
    """
    while isinstance(outputs, Mapping | tuple | list) and outputs:
        named = outputs._asdict() if hasattr(outputs, "_asdict") else outputs
        if isinstance(named, Mapping):
            outputs = next((named[key] for key in ("logits", "out") if key in named), next(iter(named.values())))
        else:
            outputs = named[0]
    return outputs


def all_outputs(model: nn.Module, images: Tensor) -> Any:
    """What ``model`` computes of images (N, C, H, W), the outputs of a classifier's auxiliary heads included."""
    return model.net(model.normalize(images)) if isinstance(model, Classifier) else model(images)


class ClassCountError(ModelError):
    """The model returns another number of logits than the data has classes."""


def check_classifier(model: nn.Module, side: int, classes: int) -> None:
    """Check that ``model`` maps images (2, 3, side, side) to logits (2, classes), in eval mode and in training.

    Raises:
        ModelError: it does not; the message says what it returns (ClassCountError for the number of logits).
    """
    tensors = [*model.parameters(), *model.buffers()]
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.to(tensors[0].device if tensors else None)
    try:
        logits = check_logits(model, images)
    except ModelError as error:
        _explain_channels(model, images, error)
        raise
    if logits != classes:
        raise ClassCountError(
            f"the model returns {logits} logits for {classes} classes of the data; both must be equal"
        )
    check_training(model, images)


def _explain_channels(model: nn.Module, images: Tensor, error: ModelError) -> None:
    """Raise ModelError if the model would take images of another number of channels than three."""
    net = model.net if isinstance(model, Classifier) else model
    first = next((module for module in net.modules() if isinstance(module, _ConvNd)), None)
    if first is None or first.in_channels == images.shape[1]:
        return
    try:
        check_logits(net, images[:, :1].expand(-1, first.in_channels, -1, -1))
    except ModelError:
        return  # that is not why
    raise ModelError(
        f"the model takes images of {_channels(first.in_channels)} and a run gives it RGB images of 3: let its "
        "forward() turn RGB into what it needs, or use the Python API, which takes images of any number of channels"
    ) from error


def _channels(count: int) -> str:
    return f"{count} channel" if count == 1 else f"{count} channels"


@one_thread()
def check_training(model: nn.Module, images: Tensor) -> None:
    """Check that ``model`` returns logits in training mode too, as a run's trainings need; ``model`` is not changed.

    Raises:
        ModelError: it fails, or its ``main_logits`` there are not the logits of eval mode.
    """
    twin = copy_of(model).train()
    with UserCode("the model fails in training mode"), torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = all_outputs(twin, images)
        found = main_logits(outputs)
    if isinstance(found, Tensor) and found.dim() == 2 and (found is outputs or _is_main(model, images)):
        return
    what = f"shape {tuple(found.shape)}" if found is outputs and isinstance(found, Tensor) else type(outputs).__name__
    raise ModelError(
        f"the model returns {what} in training mode, whose first value (or 'logits', or 'out') is not what it returns "
        "in eval mode, and a run trains on that: return it first, or build the model without its auxiliary outputs "
        "(torchvision: aux_logits=False)"
    )


def _is_main(model: nn.Module, images: Tensor) -> bool:
    """Whether the ``main_logits`` of training mode are those of eval mode, but for dropout and normalisation."""
    twin = copy_of(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        with eval_mode(twin):
            expected = twin(images)
        with training_structure(twin):
            found = main_logits(all_outputs(twin, images))
    return found.shape == expected.shape and _close(found, expected, 1e-3)


@one_thread()
def check_logits(model: nn.Module, images: Tensor) -> int:
    """The number of classes of ``model``, from its logits in eval mode, after checking that it can be traced.

    It must compute the same layers for all images and all numbers of them, twice the same, and all of it in torch:
    otherwise a trace would be right only for one image, or for a part of the model.

    Args:
        images: (N, C, H, W), at least one.

    Raises:
        ModelError: it fails on ``images``, does not return one tensor of logits (N, classes), has data-dependent
            control flow, leaves autograd, uses attention, is random, or depends on the number of images.
    """
    images = images.detach().clone().requires_grad_()
    size = "x".join(map(str, images.shape[1:]))
    with eval_mode(model), torch.random.fork_rng(devices=[]):
        guard = TraceGuard(images)
        with UserCode(f"the model does not take {size} images"), torch.enable_grad(), guard:
            logits = model(images * 1)  # a copy: some models change their input
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"the model returns {type(logits).__name__}; it must return one tensor of logits (N, classes): wrap it "
                "in a module that returns those"
            )
        if logits.dim() != 2 or len(logits) != len(images):
            raise ModelError(
                f"the model returns shape {tuple(logits.shape)} for {len(images)} images; it must return logits "
                f"({len(images)}, classes)"
            )
        if not bool(logits.isfinite().all()):
            raise ModelError(
                f"the model's logits are not finite numbers for images in [0, 1] ({_first_values(logits)}, ...): its "
                "weights or its normalisation are broken"
            )
        _check_gradient(logits, images)
        with torch.no_grad():
            _check_deterministic(model, images.detach(), guard.random)
            _check_batch(model, images.detach())
    return logits.shape[1]


def _first_values(logits: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in logits.detach().flatten()[:3].tolist())


def _check_deterministic(model: nn.Module, images: Tensor, drawn: Sequence[str]) -> None:
    first, second = model(images * 1), model(images * 1)
    atol = 0.0 if images.device.type == "cpu" else 1e-4 * float(first.abs().max())
    if not torch.allclose(first, second, rtol=0, atol=atol, equal_nan=True):
        where = f" ({drawn[0]})" if drawn else ""
        what = (
            f"draws random numbers in eval mode{where}"
            if drawn
            else "changes what it keeps, or computes with what is not torch's (random, numpy, the time)"
        )
        raise ModelError(
            f"the model gives other logits when it sees the same images twice: it {what}; make it deterministic in "
            "eval mode (F.dropout needs training=self.training)"
        )


def _check_batch(model: nn.Module, images: Tensor) -> None:
    """Raise ModelError where the logits of an image, or their shape, depend on how many images there are."""
    # The others differ much from the first: what leaks from them must not drown in rounding.
    pair = torch.cat([images[:1], 1 - 2 * images[1 if len(images) > 1 else 0 :].flip(-1)])
    together, turned, alone = _run(model, pair), _run(model, pair.flip(0)), _run(model, pair[:1])
    for logits, count in ((together, len(pair)), (turned, len(pair)), (alone, 1)):
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"the model returns {shape} for {_counted(count)}: its shapes depend on the number of images, and a "
                "slim model takes any; name the dimension that a squeeze() drops, and flatten with flatten(1)"
            )
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    if any(norm.running_mean is None for norm in norms):
        return  # norms without statistics take those of the batch
    if _close(together[:1], alone, 1e-3) and _close(turned[-1:], alone, 1e-3):
        return
    try:  # rounding, where logits are small differences of large numbers?
        exact, wide = copy_of(model).double(), pair.double()
        with double_precision():
            first = exact(wide[:1])
            if _close(exact(wide)[:1], first, 1e-6) and _close(exact(wide.flip(0))[-1:], first, 1e-6):
                return
    except RuntimeError:
        return  # it does not compute in double precision, so nothing is known
    raise ModelError(
        "the model's logits of an image depend on the images beside it (a mean over the batch, batch statistics in "
        "eval mode?): only models that treat each image on its own can be slimmed"
    )


def _run(model: nn.Module, images: Tensor) -> Any:
    with UserCode(f"the model takes images, but not {_counted(len(images))} at once"):
        return model(images * 1)


def _counted(images: int) -> str:
    return f"{images} image" if images == 1 else f"{images} images"


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    largest = float(theirs.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return bool(torch.allclose(ours, theirs, rtol=0, atol=tolerance * largest, equal_nan=True))


def _check_gradient(logits: Tensor, images: Tensor) -> None:
    """Gates are learned by gradients, and channels are traced through the autograd graph."""
    try:
        connected = logits.requires_grad and torch.autograd.grad(logits.sum(), images, allow_unused=True)[0] is not None
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
            "no gradient of the model's logits reaches its images: it leaves autograd on the way "
            "(torch.no_grad, detach, numpy); take that out of its forward()"
        )
