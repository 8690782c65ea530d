"""Neurons of a network, per image: their scores, and the network with the lowest-scored ones closed.

Activation functions are intercepted as the network runs, modules and functions alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...errors import ModelError

ReplaceOutput = Callable[[int, Tensor], Tensor]

_RELU_NAMES = ("relu", "relu6")
_OTHER_NAMES = (
    *("leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "silu", "mish", "gelu", "hardswish"),
    *("hardtanh", "softplus", "tanh", "sigmoid", "hardsigmoid", "softsign"),
)


def _spellings(names: Sequence[str]) -> dict[Any, int | None]:
    """All functions called ``names``, with the index of their argument ``inplace`` where they have it."""
    functions: dict[Any, int | None] = {}
    for name in names:
        for spelling in (name, f"{name}_"):
            for owner in (F, torch, Tensor):
                function = getattr(owner, spelling, None)
                if function is not None:
                    functions[function] = _inplace_index(function)
    return functions


def _inplace_index(function: Callable[..., Tensor]) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # built in, without a signature: an in-place one has a trailing underscore
        return None
    return names.index("inplace") if "inplace" in names else None


RELUS = _spellings(_RELU_NAMES)
ACTIVATIONS = RELUS | _spellings(_OTHER_NAMES)


class ReplacedActivations(TorchFunctionMode):
    """Context that replaces the output of every activation function by ``change(index, output)``, in order of calls.

    Works below modules: ``nn.ReLU``, ``F.relu``, ``x.relu_()`` and a module that is used twice are all intercepted,
    call by call. In-place calls write the replacement to their input. Applies to this thread only; compiled and
    scripted code is not intercepted.

    Args:
        change: given the number of the call within the block and its output, which nothing else refers to.
        functions: ``ACTIVATIONS`` or ``RELUS``.
        spatial: only feature maps: outputs (N, C, H, W) of more than one pixel. Excludes fully connected layers and
            the inside of squeeze-and-excitation.
    """

    def __init__(
        self, change: ReplaceOutput, functions: Mapping[Any, int | None] = ACTIVATIONS, *, spatial: bool
    ) -> None:
        super().__init__()
        self.change = change
        self.functions = functions
        self.spatial = spatial
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in self.functions:
            return func(*args, **kwargs)
        # Torch disables the mode while this runs, so that an activation is not intercepted again from inside.
        given = args[0] if args else kwargs["input"]
        inplace = self._is_inplace(func, args, kwargs)
        # An in-place result is its input: changing it again would change what autograd has saved.
        source = given.clone() if inplace else given
        output = func(source, *args[1:], **kwargs) if args else func(**{**kwargs, "input": source})
        if not self.spatial or (output.dim() == 4 and output.shape[2] * output.shape[3] > 1):
            output = self.change(self.calls, output)
            self.calls += 1
        return given.copy_(output) if inplace else output

    def _is_inplace(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        index = self.functions[func]
        if index is None:
            return str(func.__name__).endswith("_")
        return bool(args[index] if len(args) > index else kwargs.get("inplace", False))


STEPS = 100
"""A step closes one percent of the neurons."""


class Neurons:
    """Scores and ranks of all neurons of a classifier, for each image of a batch.

    A neuron is one pixel of one channel in the output of a spatial activation: of every ReLU, those after a residual
    sum included; likewise of other activations (SiLU, GELU, Hardswish, ...). Its score is |n * d f_y / d n| at the
    actual activation n, f_y the logit of the explained class: to first order, the change of f_y when the neuron is
    closed (n = 0). One backward pass gives all scores, as the gradient of a factor 1 on each neuron.

    Args:
        classifier: in eval mode.
        images: (N, 3, H, W), checked.
        labels: (N,) the explained classes.

    Attributes:
        scores: (N, neurons), layers in the order of their calls.
        probability: (N,) softmax probability of the explained classes, with all neurons open.

    Raises:
        ModelError: the network has no spatial activation that torch can see.
    """

    def __init__(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.classifier = classifier
        self.images = images
        self.labels = labels
        factors: list[Tensor] = []
        silent: list[Tensor] = []

        def add_factor(_index: int, output: Tensor) -> Tensor:
            factors.append(torch.ones_like(output, requires_grad=True))
            silent.append(output.detach().flatten(1) == 0)
            return output * factors[-1]

        with ReplacedActivations(add_factor, spatial=True):
            logits = classifier(images * 1)
        if not factors:
            raise ModelError(
                "pruning neurons needs spatial activations (ReLU, SiLU, GELU, Hardswish, ...), and this model computes "
                "none that torch can see (compiled and scripted code it cannot): take gradient or integrated_gradients"
            )
        gradients = torch.autograd.grad(class_values(logits, labels).sum(), factors, materialize_grads=True)
        self.shapes = [factor.shape[1:] for factor in factors]
        self.scores = torch.cat([gradient.flatten(1).abs() for gradient in gradients], 1)
        self.probability = class_values(logits.detach().softmax(1), labels)
        # Ranks, not thresholds: many scores are 0, and a threshold would close all of those in one step. Silent
        # neurons (activation 0) are ranked first: closing them changes nothing.
        keys = self.scores.masked_fill(torch.cat(silent, 1), -1)
        order = keys.argsort(dim=1, stable=True)
        ranks = torch.arange(keys.shape[1], dtype=torch.int32, device=keys.device).expand_as(order)
        self._ranks = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, ranks)
        self._silent = (keys < 0).sum(1)

    def __len__(self) -> int:
        """Neurons of the network."""
        return self.scores.shape[1]

    def count(self, steps: Tensor) -> Tensor:
        """Number of neurons closed after ``steps`` steps of one percent, rounded down."""
        return steps * len(self) // STEPS

    def silent_steps(self) -> Tensor:
        """(N,) steps that close silent neurons only, so that the output does not change."""
        return self._silent * STEPS // len(self)

    def closed(self, counts: Tensor, rows: Tensor | None = None) -> list[Tensor]:
        """Masks (R, C, h, w), one per activation, True for each image's ``counts`` (R,) lowest-ranked neurons.

        Args:
            rows: (R,) indices of the images, which may repeat; all of them by default.
        """
        ranks = self._ranks if rows is None else self._ranks[rows]
        flat = torch.split(ranks < counts[:, None], [shape.numel() for shape in self.shapes], 1)
        return [part.reshape(len(part), *shape) for part, shape in zip(flat, self.shapes, strict=True)]

    @torch.no_grad()
    def change(self, counts: Tensor, rows: Tensor) -> Tensor:
        """(R,) |p' - p| / p of the explained class's probability with ``counts`` neurons of images ``rows`` closed."""
        logits = pruned_logits(self.classifier, self.images[rows], self.closed(counts, rows))
        before = self.probability[rows]
        after = class_values(logits.softmax(1), self.labels[rows])
        return (after - before).abs() / before.clamp_min(torch.finfo(before.dtype).tiny)


def pruned_logits(classifier: nn.Module, images: Tensor, closed: Sequence[Tensor]) -> Tensor:
    """Logits with the outputs of the neurons ``closed`` (see ``Neurons.closed``) set to zero."""
    changed = ModelError("the model computes other activations from one call to the next: its neurons cannot be closed")

    def close(index: int, output: Tensor) -> Tensor:
        if index >= len(closed) or closed[index].shape != output.shape:
            raise changed
        return output.masked_fill(closed[index], 0)

    with ReplacedActivations(close, spatial=True) as mode:
        logits: Tensor = classifier(images * 1)
    if mode.calls != len(closed):
        raise changed
    return logits


def class_values(values: Tensor, labels: Tensor) -> Tensor:
    """(N,) the value of each row's class, of values (N, classes) and labels (N,)."""
    return values.gather(1, labels[:, None]).squeeze(1)
