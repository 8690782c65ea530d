"""Sanity check by cascading randomisation (Adebayo et al. 2018): do maps change when the weights are re-initialised?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Classifier
from ...modules import copy_of
from ...progress import SILENT, Progress
from ..base import Explainer
from .estimate import Estimate
from .ranking import BATCH, device_of, explain_images, is_constant, predicted_classes
from .similarity import scaled, spearman, ssim

STD = 0.01
"""Standard deviation of the re-initialised weights."""


@dataclass(frozen=True)
class CascadeLayer:
    """A layer with weights and the normalisations that follow it: they are re-initialised together."""

    name: str
    modules: tuple[str, ...]


@torch.no_grad()
def layers_of(classifier: Classifier, example: Tensor) -> tuple[CascadeLayer, ...]:
    """The layers of ``classifier`` with weights, in the order they run on ``example`` (1, 3, H, W), bottom first."""
    called: dict[str, nn.Module] = {}
    handles = []
    for name, module in classifier.named_modules():
        if _is_learned(module):

            def record(called_module: nn.Module, _inputs: object, _output: object, name: str = name) -> None:
                called.setdefault(name, called_module)

            handles.append(module.register_forward_hook(record))
    try:
        classifier.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    layers: list[CascadeLayer] = []
    for name, module in called.items():
        if layers and not _has_weights(module):
            layers[-1] = CascadeLayer(layers[-1].name, (*layers[-1].modules, name))
        else:
            layers.append(CascadeLayer(name, (name,)))
    return tuple(layers)


def cascade(classifier: Classifier, example: Tensor, *, seed: int = 0) -> Iterator[tuple[str, Classifier]]:
    """Each layer's name, top first, and a copy of ``classifier`` with it and all layers above re-initialised.

    Weights are drawn from N(0, 0.01^2) by ``seed``, biases are zero, and normalisations are reset: with the learned
    statistics, the small activations of these weights would all become the same constant.
    """
    layers = layers_of(classifier, example)
    current = copy_of(classifier).cpu()
    generator = torch.Generator().manual_seed(seed)
    modules = dict(current.named_modules())
    for layer in reversed(layers):
        for name in layer.modules:
            _reinitialize_(modules[name], generator)
        yield layer.name, copy_of(current).to(device_of(classifier)).eval().requires_grad_(False)


def _is_learned(module: nn.Module) -> bool:
    """Whether a module itself, not its submodules, has parameters or statistics that training sets."""
    own = any(True for _ in module.parameters(recurse=False))
    return own or isinstance(module, nn.modules.batchnorm._NormBase)


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


@torch.no_grad()
def _reinitialize_(module: nn.Module, generator: torch.Generator) -> None:
    reset = getattr(module, "reset_parameters", None)
    if not _has_weights(module) and callable(reset):
        reset()  # a normalisation: factor 1, offset 0, initial statistics
        return
    for parameter in module.parameters(recurse=False):
        if parameter.dim() > 1:
            parameter.normal_(0, STD, generator=generator)
        else:
            parameter.zero_()


MAX_SIMILARITY = 0.5
"""An explainer fails if its maps are still this similar with all layers re-initialised.

The papers judge by eye. A map that ignores the classifier (edges) stays at 1, one that depends on it alone falls to
about 0; half way between is outside of the noise of a mean over some tens of images."""

MAX_CONSTANT = 0.1
"""An explainer fails if its maps of more than this share of the images are constant."""

MakeExplainer = Callable[[Classifier], Explainer]
"""Makes the explainer of a classifier, for every re-initialised copy."""


@dataclass(frozen=True)
class SanityStep:
    """Similarity of the original maps to those with ``layer`` and all above re-initialised: means over images.

    Rank correlation of the signed maps and of their absolute values, and SSIM. ``constant``: number of images whose
    new map is constant; they define no rank correlation, and are excluded from its means.
    """

    layer: str
    spearman: Estimate
    spearman_abs: Estimate
    ssim: Estimate
    constant: int


@dataclass(frozen=True)
class Sanity:
    """The cascade, top first, and the verdict on its last step. ``constant``: images with a constant original map.

    ``other_images``: rank correlation of the original's signed maps of different images, which all maps of this
    explainer share, such as a bias to the centre. If a failed last step is no higher than this, only this shared part
    remains, not the explanation of the image.
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
    factory: MakeExplainer,
    classifier: Classifier,
    images: Tensor,
    *,
    maps: Tensor | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Progress = SILENT,
) -> Sanity:
    """Re-initialise ``classifier`` top-down and compare the maps, scaled to [-1, 1], after every step.

    Every step explains the class that the ORIGINAL predicts. An amortized explainer keeps its trained decoder and
    reads the re-initialised backbone: the test is of its dependence on the classifier.

    Args:
        images: (N, 3, H, W) in [0, 1].
        maps: (N, H, W) the original's maps for the predicted classes, with their signs; computed if not given.

    Raises:
        DataError: the images are smaller than SSIM's window, or a map is not finite.
    """
    device = device_of(classifier)
    labels = predicted_classes(classifier, images, batch_size=batch_size)

    def explained(model: Classifier) -> Tensor:
        return scaled(explain_images(factory(model), images, labels, device=device, batch_size=batch_size).maps)

    before = explained(classifier) if maps is None else scaled(maps)
    ssim(before, before)  # raises for small images before the cascade starts
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
                int(is_constant(after).sum()),
            )
        )
    constant = int(is_constant(before).sum())
    others = Estimate.of(spearman(before, before.roll(1, 0)))
    reason = _verdict(constant, len(images), steps[-1], others)
    return Sanity(len(images), constant, others, tuple(steps), reason.startswith("passed"), reason)


def _verdict(constant: int, count: int, last: SanityStep, others: Estimate) -> str:
    """``passed: ...`` or ``failed: ...``, with the figures that decide."""
    if constant > MAX_CONSTANT * count:
        return f"failed: {constant} of {count} maps are constant: they say nothing, and no rank correlation is defined"
    figures = {
        "rank correlation": last.spearman.mean,
        "rank correlation of absolute values": last.spearman_abs.mean,
        "SSIM": last.ssim.mean,
    }
    # A map that becomes constant has lost its order: its similarity is 0.
    defined = {name: 0.0 if value is None else value for name, value in figures.items()}
    name, value = max(defined.items(), key=lambda item: abs(item[1]))
    if abs(value) >= MAX_SIMILARITY:
        baseline = "" if others.mean is None else f"; of maps of different images: {others.mean:.2f}"
        limit = f"{MAX_SIMILARITY} or more is too much{baseline}"
        return f"failed: {name} {value:.2f} with every layer re-initialised ({limit})"
    note = f"; {last.constant} of {count} maps became constant" if last.constant else ""
    return f"passed: {name} {value:.2f} at most with every layer re-initialised{note}"
