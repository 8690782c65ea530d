"""Take what a classifier has learned away from it, layer by layer, from the logits down to the image."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models import Classifier
from .ranking import device_of

STD = 0.01
"""Of the normal distribution that weights are drawn from."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights and the normalisations that follow it: they are re-initialised together."""

    name: str
    modules: tuple[str, ...]


@torch.no_grad()
def layers_of(classifier: Classifier, example: Tensor) -> tuple[Layer, ...]:
    """The layers of ``classifier`` that hold weights, as they run on ``example`` (1, 3, H, W), bottom first."""
    ran: dict[str, nn.Module] = {}
    handles = []
    for name, module in classifier.named_modules():
        if _learns(module):

            def note(ran_module: nn.Module, _inputs: object, _output: object, name: str = name) -> None:
                ran.setdefault(name, ran_module)

            handles.append(module.register_forward_hook(note))
    try:
        classifier.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    layers: list[Layer] = []
    for name, module in ran.items():
        if layers and not _has_weights(module):
            layers[-1] = Layer(layers[-1].name, (*layers[-1].modules, name))
        else:
            layers.append(Layer(name, (name,)))
    return tuple(layers)


def cascade(classifier: Classifier, example: Tensor, *, seed: int = 0) -> Iterator[tuple[str, Classifier]]:
    """Each layer's name, top first, and a copy of ``classifier`` without what it and all layers above have learned.

    Weights are drawn from N(0, 0.01^2) by ``seed``, biases are zero, and normalisations start anew: with the learned
    statistics, activations as small as these weights give would all be the same constant.
    """
    layers = layers_of(classifier, example)
    current = copy.deepcopy(classifier).cpu()
    generator = torch.Generator().manual_seed(seed)
    modules = dict(current.named_modules())
    for layer in reversed(layers):
        for name in layer.modules:
            _reinitialize_(modules[name], generator)
        yield layer.name, copy.deepcopy(current).to(device_of(classifier)).eval().requires_grad_(False)


def _learns(module: nn.Module) -> bool:
    """Whether a module itself, not what it is made of, holds anything that training sets."""
    own = any(True for _ in module.parameters(recurse=False))
    return own or isinstance(module, nn.modules.batchnorm._NormBase)


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


@torch.no_grad()
def _reinitialize_(module: nn.Module, generator: torch.Generator) -> None:
    reset = getattr(module, "reset_parameters", None)
    if not _has_weights(module) and callable(reset):
        reset()  # a normalisation: factor 1, offset 0, and its statistics too
        return
    for parameter in module.parameters(recurse=False):
        if parameter.dim() > 1:
            parameter.normal_(0, STD, generator=generator)
        else:
            parameter.zero_()
