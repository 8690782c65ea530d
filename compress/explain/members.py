"""Explainers by name: what recipes, ``slimsight trust`` and ``slimsight explain`` choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import ConfigError
from ..registry import Registry
from .attribution.controls import CentreMaps, ConstantMaps, Edges, RandomMaps
from .attribution.prunegrad import PruneGrad, PrunePGD
from .attribution.references import (
    GradCam,
    Gradient,
    GradientXInput,
    GuidedBackprop,
    IntegratedGradients,
    SmoothGradSquared,
)
from .base import Explainer
from .varsal import VarSal

Untrained = Callable[[nn.Module], Explainer]
Trained = Callable[[nn.Module, Path], Explainer]


@dataclass(frozen=True)
class Member:
    """How to make an explainer of a classifier: exactly one of ``untrained`` and ``trained`` (from weights) is set."""

    untrained: Untrained | None = None
    trained: Trained | None = None

    def __post_init__(self) -> None:
        assert (self.untrained is None) != (self.trained is None)


MEMBERS: Registry[Member] = Registry("explainer")

for _name, _make in {
    "prunegrad": PruneGrad,
    "prunepgd": PrunePGD,
    "gradient": Gradient,
    "gradient_x_input": GradientXInput,
    "integrated_gradients": IntegratedGradients,
    "smoothgrad_squared": SmoothGradSquared,
    "guided_backprop": GuidedBackprop,
    "grad_cam": GradCam,
    "random": RandomMaps,
    "edges": Edges,
    "centre": CentreMaps,
    "constant": ConstantMaps,
}.items():
    MEMBERS.add(_name)(Member(untrained=_make))
MEMBERS.add("varsal")(Member(trained=lambda _classifier, weights: VarSal.load(weights)))  # its encoder reads the image


def needs_weights(name: str) -> bool:
    """Is the explainer learned, so that ``make_explainer`` takes its weights?

    Raises:
        ConfigError: no such explainer.
    """
    return MEMBERS.get(name).trained is not None


def make_explainer(name: str, classifier: nn.Module, weights: Path | None = None) -> Explainer:
    """The explainer called ``name`` of ``classifier`` (raw images in [0, 1] -> logits).

    Args:
        weights: of an explainer that is learned (``needs_weights``); the others take none.

    Raises:
        ConfigError: no such explainer, weights that are missing or that nothing asks for, or a missing library.
        ModelError: the classifier has not what this explainer needs.
    """
    member = MEMBERS.get(name)
    if member.untrained is not None:
        if weights is not None:
            raise ConfigError(f"explainer '{name}' learns nothing: leave out its weights ({weights})")
        return member.untrained(classifier)
    assert member.trained is not None
    if weights is None:
        others = ", ".join(other for other in MEMBERS if not needs_weights(other))
        raise ConfigError(f"explainer '{name}' is learned: give its weights, or take one that needs none ({others})")
    return member.trained(classifier, weights)
