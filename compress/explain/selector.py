"""f_sel: one forward pass from an image to what explains it, on the classifier's own pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..models import Classifier
from .decoder import Decoder
from .heads import Head, RbfHead
from .pyramid import Scale, captured


class Selector(Decoder):
    """A decoder and the head that speaks for it. Knows its scales by layer name (see ``find_scales``).

    Args:
        side: of the images, in pixels.
        head: how it explains: ``RbfHead`` (ISP), ``RealXHead``, ``VarSalHead``.
    """

    def __init__(self, scales: Sequence[Scale], classes: int, side: int, head: type[Head] = RbfHead) -> None:
        super().__init__(scales, classes)
        self.side = side
        self.head = head(self.width, self.scales[-1].side, side)
        nn.init.normal_(self.filter.weight, std=self.scales[0].channels ** -0.5)
        self.head.start_()

    def forward(self, features: Sequence[Tensor], labels: Tensor) -> Tensor:
        """(N, ...) the head's numbers for features (coarse to fine) and class labels (N,)."""
        numbers: Tensor = self.head(self.decode(features, labels))
        return numbers


class ExplainedClassifier(nn.Module):
    """Classifier and selector as one network: traced together, gated together, slimmed together."""

    PREFIX = "classifier."

    def __init__(self, classifier: Classifier, selector: Selector) -> None:
        super().__init__()
        self.classifier = classifier
        self.selector = selector

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and the numbers that the head says; the explained class is predicted if not given."""
        with captured(self.classifier, self.selector.scales) as features:
            logits = self.classifier(images)
        if labels is None:
            labels = logits.detach().argmax(1)
        return logits, self.selector(features, labels)

    @staticmethod
    def view(network: nn.Module, images: Tensor) -> list[Tensor]:
        """What the dependency graph looks through (see ``Selector.readers``)."""
        assert isinstance(network, ExplainedClassifier)
        with captured(network.classifier, network.selector.scales) as features:
            logits = network.classifier(images)
        return [logits, *network.selector.readers(features)]
