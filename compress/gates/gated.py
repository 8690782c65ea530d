"""Frozen network with gates as one module for training, made fast by folding, scaling and compiling, with checks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from ..data import Batch
from ..errors import PruningError, first_error_line
from ..explain import Capture, ExplainedClassifier
from ..models.fold import FoldPair, find_fold_pairs, fold_, proven_pairs
from ..modules import copy_of
from ..progress import SILENT, Progress
from ..surgery import ChannelGroup, masked, max_relative
from .gate import Gates
from .scaled import scale_
from .statistics import use_batch_statistics_

TOLERANCE = 1e-6
"""Relative difference in float64 between the fast network and the one that multiplies activations; the explainer's
numbers are float32."""

COMPILED_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""Relative difference of outputs and gradients, by the precision of convolutions: the compiler reorders sums and
rounds bfloat16 elsewhere. It detects a wrong compilation, no more."""

MIN_TOTAL_MACS = 1.3e11
"""Least MACs over all steps, per layer, for compiling to pay on a CPU. Measured on two cores with ResNet-56 at 32
pixels: compiling takes 0.4 seconds per layer and saves a ninth of a step, which takes 2.8 seconds per 1e11 MACs."""

MAX_STEP_MACS = 1e9
"""Most MACs of a step, per layer, for compiling to pay: above it convolutions take nearly all of the time. Measured
with ResNet-18 at 224 pixels, batch 32 (1.7e9), which is not faster compiled; ResNet-56, batch 128, has 1.8e8."""


def pays_to_compile(steps: int, batch: int, macs: float, layers: int) -> bool:
    """Whether compiling ``layers`` layers pays for ``steps`` steps of ``batch`` images of ``macs`` MACs each."""
    step = batch * macs / layers
    return step < MAX_STEP_MACS and steps * step >= MIN_TOTAL_MACS


class FastNetwork(nn.Module):
    """Copy of ``network`` with ``pairs`` folded, and the gates of ``groups`` in the weights of their consumers.

    Args:
        network: frozen, in eval mode; a classifier, or one with its explainer.
        pairs: names as in ``network``.
        steered: whether the explainer runs too.
    """

    sources: Tensor

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[ChannelGroup],
        pairs: Sequence[FoldPair],
        *,
        steered: bool,
    ) -> None:
        super().__init__()
        network = copy_of(network)
        fold_(network, pairs)
        self._dial, sources = scale_(network, groups)
        self.classifier, self.selector, self._capture = network, None, None
        if isinstance(network, ExplainedClassifier):
            self.classifier = network.classifier
            if steered:
                self.selector = network.selector
                self._capture = Capture(network.classifier, network.selector.scales)
        self.register_buffer("sources", sources.to(next(network.parameters()).device), persistent=False)

    def to_positions(self, values: Tensor, ungated: float) -> Tensor:
        """(channels of all groups,) -> (positions of all gated layers' inputs,); ``ungated`` for those of no group."""
        return torch.cat([values, values.new_full((1,), ungated)])[self.sources]

    def forward(self, factors: Tensor, logs: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and explanations (None unless steered).

        Args:
            factors: (positions,) gate values, without gradient.
            logs: (positions,) their logarithms: they receive the gradient, their values are not used.
        """
        self._dial.factors, self._dial.logs = factors, logs
        logits = self.classifier(images)
        numbers = None
        if self.selector is not None and self._capture is not None:
            numbers = self.selector(self._capture.take(), labels)
        self._dial.factors = self._dial.logs = None
        return logits, numbers


class GatedNetwork(nn.Module):
    """Gates and frozen network as one module for ``fit``. Only the gates have gradients.

    ``network`` is not changed; a ``FastNetwork`` replaces it, with every normalisation folded that can be. It is
    compared with ``masked`` in float64, on two images of ``batch``, at random gates.

    Args:
        batch_statistics: the classifier's normalisations, none of them folded, use those of each batch.

    Raises:
        PruningError: the fast network computes something else.
    """

    def __init__(
        self,
        network: nn.Module,
        gates: Gates,
        groups: Sequence[ChannelGroup],
        batch: Batch,
        *,
        steered: bool,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.gates = gates
        self.pairs = proven_fold_pairs(
            network, groups, batch.images[:2], batch.labels[:2], steered=steered, batch_statistics=batch_statistics
        )
        self.fast = FastNetwork(network, groups, self.pairs, steered=steered)
        self._batch_norms = use_batch_statistics_(self.fast.classifier) if batch_statistics else []
        self._compiled: Callable[..., tuple[Tensor, Tensor | None]] | None = None
        self._compiled_for: torch.Size | None = None

    def forward(
        self, images: Tensor, labels: Tensor, *, noise: float, temperature: float
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits, explanations (None unless steered) and the gate sample that they were computed with."""
        values, factors, logs = self.draw(noise=noise, temperature=temperature)
        # A last batch of another size runs eagerly: it would need a compilation of its own.
        compiled = self._compiled if images.shape == self._compiled_for else None
        logits, numbers = (compiled or self.fast)(factors, logs, images, labels)
        return logits, numbers, values

    def train(self, mode: bool = True) -> Self:
        """As of every module; normalisations with the statistics of the batch stay in training mode."""
        super().train(mode)
        for norm in self._batch_norms:  # so that processes which share a batch share its statistics: ``GlobalBatch``
            norm.training = True
        return self

    def draw(self, *, noise: float, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """One sample of the gates: (channels of all groups,) values; factors and logs as ``FastNetwork`` takes them."""
        values, logs = self.gates.sample(noise=noise, temperature=temperature)
        return values, self.fast.to_positions(values.detach(), 1), self.fast.to_positions(logs, 0)

    def compile_(self, batch: Batch, progress: Progress = SILENT) -> bool:
        """Compile for batches of the shape of ``batch``, on its device and under the present autocast.

        A step that cannot be compiled, or computes something else then, stays eager; a note gives the reason.
        """
        eager = self._probe(self.fast, batch)
        started = time.perf_counter()
        compiled = torch.compile(self.fast.forward, dynamic=False, fullgraph=True)
        try:
            with _without_cpp_extension_warnings():
                outputs = self._probe(compiled, batch)
        except (RuntimeError, OSError) as error:  # of the compiler: the same step has just run without it
            progress.note(f"gates: the step runs eagerly, it cannot be compiled ({first_error_line(error)})")
            return False
        difference = max_relative(outputs, eager)
        if difference > COMPILED_TOLERANCE[_conv_precision(batch.images.device)]:
            progress.note(f"gates: the step runs eagerly, compiled it differs by {difference:.1e}")
            return False
        self._compiled, self._compiled_for = compiled, batch.images.shape
        progress.note(f"gates: compiled the step in {time.perf_counter() - started:.0f} s")
        return True

    def _probe(self, run: Callable[..., tuple[Tensor, Tensor | None]], batch: Batch) -> list[Tensor]:
        """Outputs, and the gradient of their squares, at random gates: forward and backward as in a step."""
        values = _random_gates(self.gates.theta)
        factors, logs = self.fast.to_positions(values, 1), self.fast.to_positions(values.log(), 0).requires_grad_()
        outputs = [x for x in run(factors, logs, batch.images, batch.labels) if x is not None]
        loss = torch.stack([x.float().square().mean() for x in outputs]).sum()
        return [*(x.detach().float() for x in outputs), *torch.autograd.grad(loss, logs)]


def proven_fold_pairs(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    images: Tensor,
    labels: Tensor,
    *,
    steered: bool,
    batch_statistics: bool = False,
) -> tuple[FoldPair, ...]:
    """Normalisations that can be folded into the layer before them without changing the gated network's outputs.

    With ``batch_statistics`` those of the classifier are not folded.

    Raises:
        PruningError: even with none folded, the fast network computes something else.
    """
    network, images = copy_of(network).double(), images.double()
    names, widths = [group.name for group in groups], [group.channels for group in groups]
    values = _random_gates(images.new_zeros(sum(widths)))
    if batch_statistics:
        use_batch_statistics_(_classifier_of(network))
    classifier = _classifier_of(network)

    def plain() -> list[Tensor]:
        return list(network(images, labels)) if steered else [classifier(images)]

    def exact(pairs: Sequence[FoldPair]) -> bool:
        fast = FastNetwork(network, groups, pairs, steered=steered)
        outputs = fast(fast.to_positions(values, 1), fast.to_positions(values.log(), 0), images, labels)
        return max_relative([x for x in outputs if x is not None], expected) <= TOLERANCE

    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        with masked(network, groups, dict(zip(names, torch.split(values, widths), strict=True))):
            expected = plain()
        pairs = proven_pairs(find_fold_pairs(network, plain), exact)
        if not pairs and not exact(pairs):
            raise PruningError(
                f"gates in the weights of {type(network).__name__} differ from gates on its activations (are its "
                "outputs finite numbers, and are its layers called as they are defined?): check the model, or rank by "
                "weights: gates.steer=magnitude"
            )
    return pairs


def _classifier_of(network: nn.Module) -> nn.Module:
    return network.classifier if isinstance(network, ExplainedClassifier) else network


def _random_gates(like: Tensor) -> Tensor:
    """Values between 1/4 and 1: none so small that it hides a difference in later layers."""
    generator = torch.Generator().manual_seed(0)
    return (0.25 + 0.75 * torch.rand(like.shape, generator=generator, dtype=torch.float64)).to(like)


@contextmanager
def _without_cpp_extension_warnings() -> Iterator[None]:
    """Suppresses the warning of torch's extension builder that a machine without a GPU has none."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _conv_precision(device: torch.device) -> torch.dtype:
    """The dtype in which convolutions compute, given the present autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
