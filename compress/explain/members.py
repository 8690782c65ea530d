"""Registry of explainers by name, for recipes, ``slimsight trust`` and ``slimsight explain``."""

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

FromClassifier = Callable[[nn.Module], Explainer]
FromWeights = Callable[[nn.Module, Path], Explainer]


@dataclass(frozen=True)
class ExplainerFactory:
    """How to build an explainer: from the classifier (``untrained``), or from saved weights too (``trained``).

    Exactly one of the two is set.
    """

    untrained: FromClassifier | None = None
    trained: FromWeights | None = None

    def __post_init__(self) -> None:
        assert (self.untrained is None) != (self.trained is None)


EXPLAINERS: Registry[ExplainerFactory] = Registry("explainer")

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
    EXPLAINERS.add(_name)(ExplainerFactory(untrained=_make))
EXPLAINERS.add("varsal")(
    ExplainerFactory(trained=lambda _classifier, weights: VarSal.load(weights))
)  # its encoder reads the image


def needs_weights(name: str) -> bool:
    """Whether the explainer is trained, so that ``make_explainer`` takes its weights.

    Raises:
        ConfigError: no such explainer.
    """
    return EXPLAINERS.get(name).trained is not None


def make_explainer(name: str, classifier: nn.Module, weights: Path | None = None) -> Explainer:
    """The explainer called ``name`` for ``classifier`` (raw images in [0, 1] -> logits).

    Args:
        weights: of a trained explainer (``needs_weights``); None for the others.

    Raises:
        ConfigError: no such explainer, weights that are missing or not needed, or a missing library.
        ModelError: the classifier lacks something that this explainer needs.
    """
    factory = EXPLAINERS.get(name)
    if factory.untrained is not None:
        if weights is not None:
            raise ConfigError(f"explainer '{name}' learns nothing: leave out its weights ({weights})")
        return factory.untrained(classifier)
    assert factory.trained is not None
    if weights is None:
        untrained = ", ".join(other for other in EXPLAINERS if not needs_weights(other))
        raise ConfigError(f"explainer '{name}' is learned: give its weights, or take one that needs none ({untrained})")
    return factory.trained(classifier, weights)
