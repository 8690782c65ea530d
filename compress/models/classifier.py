"""Classifier: normalisation as its first layer, so that it takes raw images in [0, 1]; checks that a network is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import ModelError
from ..modes import eval_mode, one_thread, training_structure
from ..modules import copy_of
from .checks import check_logits, is_close
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
    return found.shape == expected.shape and is_close(found, expected, 1e-3)
