"""A model with its proven channel groups and its cost: what ``trace`` gives and all other steps take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from slimsight.compress.data import Expected
from slimsight.compress.errors import ConfigError
from slimsight.compress.explain import ExplainedClassifier
from slimsight.compress.gates import CostModel
from slimsight.compress.inputs import Packing
from slimsight.compress.surgery import ChannelGraph


@dataclass(frozen=True)
class Traced:
    """A model with its proven channel groups and its cost; ``explained`` joins it with an explainer, if it has one.

    ``changes``: what of the model is not as it was given (weight norm folded, half precision), a sentence each.
    ``classes``: of a model that gives logits; None of any other. ``outputs``: the shape of each tensor that it returns,
    by its name (``out.boxes[0]``). ``packing``: of several inputs, which ``model`` then takes as one tensor.
    """

    model: nn.Module
    example: Tensor
    graph: ChannelGraph
    cost: CostModel
    classes: int | None
    scope: Literal["all", "inner"] = "all"
    explained: ExplainedClassifier | None = None
    changes: tuple[str, ...] = ()
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    packing: Packing | None = None

    @property
    def expected(self) -> Expected:
        """The images and labels that loaders have to give.

        Raises:
            ConfigError: the model takes several inputs, or gives no logits.
        """
        _, channels, height, width = self.example.shape if self.packing is None else (0, 0, 0, 0)
        return Expected(channels, (height, width), self.logits)

    @property
    def logits(self) -> int:
        """The number of classes of a model of images that gives logits, which is what can be learned from.

        Raises:
            ConfigError: the model takes several inputs, or gives no logits.
        """
        if self.classes is None or self.packing is not None:
            what = "takes several inputs" if self.packing is not None else f"returns {', '.join(self.outputs)}"
            raise ConfigError(
                f"the model {what}: explainers and gates are learned from images and one tensor of logits; rank its "
                "channels by weights (learn_gates with GatesConfig(steer='magnitude')) and finetune the slim model in "
                "your own loop"
            )
        return self.classes

    def check_learnable(self) -> None:
        """Raise ConfigError unless gates and explainers can learn from what the model takes and gives (``logits``)."""
        _ = self.logits
