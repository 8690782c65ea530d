"""Reference attributions by captum: gradients, SmoothGrad, guided backpropagation and Grad-CAM.

Gradients are of the explained class's logit with respect to raw pixels in [0, 1]. Where a method gives one value per
colour channel, a pixel takes the one of the largest magnitude, with its sign.
"""

from __future__ import annotations

import importlib
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError, ModelError
from ...registry import nearest
from ..amortized.rbf import fixed_draws
from ..base import CheckedExplainer, signed_max_abs
from .neurons import RELUS, ReplacedActivations

_ROWS = 64
"""Images (or steps, or noisy copies) in one forward pass: bounds memory, does not change the result."""


class _CaptumGradient(CheckedExplainer):
    """Base of the methods of captum that give a value per colour channel."""

    signed = True

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__(classifier)
        self._captum = _import_captum(self.name)

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        return signed_max_abs(self._attribute(images.requires_grad_(), labels))

    @abstractmethod
    def _attribute(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N, 3, H, W) attributions of images that require gradients."""


class Gradient(_CaptumGradient):
    """d logit / d pixel (Simonyan et al. 2013)."""

    name = "gradient"

    def _attribute(self, images: Tensor, labels: Tensor) -> Tensor:
        attributions: Tensor = self._captum.Saliency(self.classifier).attribute(images, target=labels, abs=False)
        return attributions


class GradientXInput(_CaptumGradient):
    """pixel * d logit / d pixel (Shrikumar et al. 2016); black pixels are 0 by construction."""

    name = "gradient_x_input"

    def _attribute(self, images: Tensor, labels: Tensor) -> Tensor:
        attributions: Tensor = self._captum.InputXGradient(self.classifier).attribute(images, target=labels)
        return attributions


class IntegratedGradients(_CaptumGradient):
    """Mean gradient along the straight line from a black image, times the pixel (Sundararajan et al. 2017, Eq. 1).

    Before channels are reduced, an image's values sum to logit(image) - logit(black), up to the quadrature.

    Args:
        steps: of Gauss-Legendre quadrature.
    """

    name = "integrated_gradients"

    def __init__(self, classifier: nn.Module, *, steps: int = 50) -> None:
        super().__init__(classifier)
        self.steps = steps

    def _attribute(self, images: Tensor, labels: Tensor) -> Tensor:
        attributions: Tensor = self._captum.IntegratedGradients(self.classifier).attribute(
            images, baselines=0.0, target=labels, n_steps=self.steps, internal_batch_size=max(_ROWS, len(images))
        )
        return attributions


class SmoothGradSquared(_CaptumGradient):
    """Mean squared gradient over noisy copies of an image (Smilkov et al. 2017; squared as Hooker et al. 2019).

    Every image gets the same noise, whatever else is in the batch.

    Args:
        samples: noisy copies.
        noise: standard deviation, as a share of the image's own range of values.
    """

    name = "smoothgrad_squared"
    signed = False

    def __init__(self, classifier: nn.Module, *, samples: int = 15, noise: float = 0.15) -> None:
        super().__init__(classifier)
        self.samples = samples
        self.noise = noise

    def _attribute(self, images: Tensor, labels: Tensor) -> Tensor:
        tunnel = self._captum.NoiseTunnel(self._captum.Saliency(self.classifier))
        squares = []
        for image, label in zip(torch.split(images.detach(), 1), torch.split(labels, 1), strict=True):
            deviation = self.noise * float(image.max() - image.min())
            with fixed_draws(images.device):
                squares.append(
                    tunnel.attribute(
                        image.requires_grad_(),
                        nt_type="smoothgrad_sq",
                        nt_samples=self.samples,
                        nt_samples_batch_size=_ROWS,
                        stdevs=deviation,
                        target=label,
                        abs=False,
                    )
                )
        return torch.cat(squares)


class GuidedBackprop(_CaptumGradient):
    """Gradients with the negative part dropped at every ReLU (Springenberg et al. 2015).

    captum overrides the gradient of ``nn.ReLU`` modules only (silently not of ``F.relu`` and ``nn.ReLU6``), and where
    a ReLU's input is also read by a shortcut it clamps the sum of both paths. Here every ReLU of the network, however
    it is called, also passes through one module of ours, and captum overrides that one.

    Raises:
        ModelError: by ``explain``, for a network without ReLU or ReLU6: it would be the gradient under another name.
    """

    name = "guided_backprop"

    def _attribute(self, images: Tensor, labels: Tensor) -> Tensor:
        routed = _RoutedReLUs(self.classifier)
        with _without_hook_warnings():
            attributions: Tensor = self._captum.GuidedBackprop(routed).attribute(images, target=labels)
        if not routed.calls:
            raise ModelError(
                "guided_backprop needs ReLU or ReLU6, and this model computes none that torch can see: take gradient "
                "or integrated_gradients"
            )
        return attributions


class _RoutedReLUs(nn.Module):
    """Classifier whose ReLU outputs all pass through one ReLU module: relu(relu(x)) = relu(x)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self._hidden = (classifier,)  # not a submodule: captum must find no other ReLU than ours
        self.relu = nn.ReLU()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        with ReplacedActivations(self._route, RELUS, spatial=False) as mode:
            logits: Tensor = self._hidden[0](images)
        self.calls = mode.calls
        return logits

    def _route(self, _index: int, output: Tensor) -> Tensor:
        # Without a gradient there is nothing to override, and captum cannot hook the module.
        return self.relu(output) if output.requires_grad else output


class GradCam(CheckedExplainer):
    """Feature maps weighted by their mean gradients, positive part, enlarged bilinearly (Selvaraju et al. 2017, Eq. 2).

    Args:
        layer: name of a module whose output is (N, C, h, w); by default the last feature map that a convolution
            makes, after the normalisation, shortcut and activation that follow it, before pooling.

    Raises:
        ModelError: no such layer; or, by ``explain``, no feature map of more than one pixel.
    """

    name = "grad_cam"

    def __init__(self, classifier: nn.Module, *, layer: str | None = None) -> None:
        super().__init__(classifier)
        self._captum = _import_captum(self.name)
        self.layer = layer
        names = [name for name, _ in classifier.named_modules() if name]
        if layer is not None and layer not in names:
            raise ModelError(f"grad_cam: the model has no layer '{layer}'{nearest(layer, names)}")

    def _maps(self, images: Tensor, labels: Tensor) -> Tensor:
        layer = self.layer or last_feature_map(self.classifier, images[:1])
        cam = self._captum.LayerGradCam(self.classifier, self.classifier.get_submodule(layer))
        coarse = cam.attribute(images.requires_grad_(), target=labels, relu_attributions=True)
        if not isinstance(coarse, Tensor) or coarse.dim() != 4:
            raise ModelError(f"grad_cam: layer '{layer}' gives no feature maps (N, C, h, w): name another")
        return F.interpolate(coarse, size=images.shape[2:], mode="bilinear", align_corners=False).squeeze(1)


@torch.no_grad()
def last_feature_map(classifier: nn.Module, example: Tensor) -> str:
    """Name of the module that gives ``classifier``'s last convolutional feature map, for images like ``example``.

    Raises:
        ModelError: no convolution gives a map of more than one pixel.
    """
    sizes: dict[str, torch.Size] = {}
    pools = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout)

    def record(name: str, module: nn.Module, output: object) -> None:
        if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[2] * output.shape[3] == 1:
            return
        if isinstance(module, nn.Conv2d):
            sizes.clear()
        elif not sizes or isinstance(module, pools):
            return
        sizes[name] = output.shape[2:]

    handles = [
        module.register_forward_hook(lambda module, _inputs, output, name=name: record(name, module, output))
        for name, module in classifier.named_modules()
        if name
    ]
    try:
        classifier(example)
    finally:
        for handle in handles:
            handle.remove()
    if not sizes:
        raise ModelError(
            "grad_cam needs a convolution whose output is larger than one pixel, this model has none: take gradient "
            "or integrated_gradients"
        )
    convolution = next(iter(sizes.values()))  # later outputs of another size are pooled or enlarged
    return [name for name, size in sizes.items() if size == convolution][-1]


def _import_captum(name: str) -> Any:
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise ConfigError(f"explainer '{name}' needs captum: pip install 'captum>=0.9'") from error


@contextmanager
def _without_hook_warnings() -> Iterator[None]:
    """Suppresses captum's warning that it sets hooks, which it removes again."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations")
        yield
