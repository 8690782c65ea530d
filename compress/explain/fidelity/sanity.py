"""Does an explanation depend on what the classifier has learned? (Adebayo et al. 2018; PruneGrad's settings.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ...models import Classifier
from ...progress import SILENT, Progress
from ..base import Explainer
from .estimate import Estimate
from .ranking import BATCH, constant, device_of, explain_images, predicted
from .reinitialize import cascade
from .similarity import scaled, spearman, ssim

LIKENESS = 0.5
"""An explainer fails if its maps are still this much alike when nothing that was learned is left.

The papers judge by eye. A map that does not read the classifier (edges) stays at 1, one that only reads it falls to
about 0; half way between lies outside of what noise does to a mean over some tens of images."""

CONSTANT = 0.1
"""Share of the images with a constant map from which on an explainer fails: it has nothing to say about them."""

Factory = Callable[[Classifier], Explainer]
"""Remakes an explainer for another state of the classifier."""


@dataclass(frozen=True)
class SanityStep:
    """Maps of the original against those after ``layer`` and all above it forgot: means over images.

    Rank correlation of the signed maps and of their absolute values, and SSIM. ``constant``: images whose new map is
    constant; they define no rank correlation, and are left out of its means.
    """

    layer: str
    spearman: Estimate
    spearman_abs: Estimate
    ssim: Estimate
    constant: int


@dataclass(frozen=True)
class Sanity:
    """The cascade, top first, and the verdict on its last step. ``constant``: images with a constant original map.

    ``other_images``: rank correlation of signed maps of different images of the original classifier: what maps of
    this explainer have in common anyway, such as a liking for the centre. Where a failed last step is no higher than
    this, that is what stays, and not what the map says of its own image.
    """

    images: int
    constant: int
    other_images: Estimate
    steps: tuple[SanityStep, ...]
    passed: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def sanity_check(
    factory: Factory,
    classifier: Classifier,
    images: Tensor,
    *,
    maps: Tensor | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Progress = SILENT,
) -> Sanity:
    """Re-initialise ``classifier`` top-down and compare the maps, scaled to [-1, 1], after every step.

    Every step explains the class that the ORIGINAL predicts. An amortized explainer that ``factory`` makes keeps its
    trained decoder and reads the re-initialised backbone: the test is of what it takes from the classifier.

    Args:
        images: (N, 3, H, W) in [0, 1].
        maps: (N, H, W) the original's maps for the predicted classes, with their signs, if they are at hand.

    Raises:
        DataError: the images are smaller than SSIM's window, or a map is not finite.
    """
    device = device_of(classifier)
    labels = predicted(classifier, images, batch_size=batch_size)

    def explained(model: Classifier) -> Tensor:
        return scaled(explain_images(factory(model), images, labels, device=device, batch_size=batch_size).maps)

    before = explained(classifier) if maps is None else scaled(maps)
    ssim(before, before)  # refuses small images before anything is computed
    example = images[:1].to(device)
    steps = []
    for layer, model in progress.track(cascade(classifier, example, seed=seed), "sanity: re-initialise", unit="layer"):
        after = explained(model)
        steps.append(
            SanityStep(
                layer,
                Estimate.of(spearman(before, after)),
                Estimate.of(spearman(before.abs(), after.abs())),
                Estimate.of(ssim(before, after)),
                int(constant(after).sum()),
            )
        )
    silent = int(constant(before).sum())
    others = Estimate.of(spearman(before, before.roll(1, 0)))
    reason = _verdict(silent, len(images), steps[-1], others)
    return Sanity(len(images), silent, others, tuple(steps), reason.startswith("passed"), reason)


def _verdict(silent: int, count: int, last: SanityStep, others: Estimate) -> str:
    """``passed: ...`` or ``failed: ...``, with the figures that decide."""
    if silent > CONSTANT * count:
        return f"failed: {silent} of {count} maps are constant: they say nothing, and no rank correlation is defined"
    figures = {
        "rank correlation": last.spearman.mean,
        "rank correlation of absolute values": last.spearman_abs.mean,
        "SSIM": last.ssim.mean,
    }
    # A map that becomes constant has changed: it keeps nothing of the order that it had.
    found = {name: 0.0 if value is None else value for name, value in figures.items()}
    name, value = max(found.items(), key=lambda item: abs(item[1]))
    if abs(value) >= LIKENESS:
        anyway = "" if others.mean is None else f"; of maps of different images: {others.mean:.2f}"
        return f"failed: {name} {value:.2f} with every layer re-initialised ({LIKENESS} or more is too much{anyway})"
    gone = f"; {last.constant} of {count} maps became constant" if last.constant else ""
    return f"passed: {name} {value:.2f} at most with every layer re-initialised{gone}"
