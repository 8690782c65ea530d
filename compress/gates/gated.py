"""Frozen network and gates as one module, made to run fast: folded, scaled, compiled, and compared before it learns."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data import Batch
from ..errors import PruningError
from ..explain import Capture, ExplainedClassifier
from ..models.fold import FoldPair, find_fold_pairs, fold_
from ..progress import SILENT, Progress
from ..surgery import ChannelGroup, masked, max_relative
from .gate import Gates
from .scaled import scale_

TOLERANCE = 1e-6
"""Relative, in float64, between the fast network and the one that multiplies activations; the explainer gives its
numbers in float32."""

COMPILED_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""Relative, of outputs and gradients, where convolutions run in a precision: sums have another order, and bfloat16 is
rounded in other places. It finds a compiler that is wrong, no more."""

WORTH = 1.3e11
"""MACs over all steps per layer from which compiling pays on a CPU. Measured on two cores with ResNet-56 at 32 pixels:
compiling takes 0.4 seconds per layer and saves a ninth of a step, which takes 2.8 seconds per 1e11 MACs."""

LARGE = 1e9
"""MACs of a step per layer from which compiling does not pay: convolutions then take nearly all of the time. Measured
with ResNet-18 at 224 pixels, batch 32 (1.7e9), which is not faster compiled; ResNet-56, batch 128, has 1.8e8."""


def pays_to_compile(steps: int, batch: int, macs: float, layers: int) -> bool:
    """Whether ``steps`` of ``batch`` images on a classifier of ``macs`` per image are worth compiling ``layers``."""
    step = batch * macs / layers
    return step < LARGE and steps * step >= WORTH


class FastNetwork(nn.Module):
    """A copy of ``network`` with ``pairs`` folded, whose consumers carry the gates of ``groups`` in their weights.

    Args:
        network: frozen, in eval mode; a classifier, or one with its explainer.
        steered: whether the explainer is run too.
    """

    sources: Tensor

    def __init__(
        self, network: nn.Module, groups: Sequence[ChannelGroup], pairs: Sequence[FoldPair], *, steered: bool
    ) -> None:
        super().__init__()
        network = copy.deepcopy(network)
        fold_(network, pairs)
        self._dial, sources = scale_(network, groups)
        self.classifier, self.selector, self._capture = network, None, None
        if isinstance(network, ExplainedClassifier):
            self.classifier = network.classifier
            if steered:
                self.selector = network.selector
                self._capture = Capture(network.classifier, network.selector.scales)
        self.register_buffer("sources", sources.to(next(network.parameters()).device), persistent=False)

    def spread(self, values: Tensor, absent: float) -> Tensor:
        """(channels of all groups,) as (positions of all gated inputs,); ``absent`` where no group has a say."""
        return torch.cat([values, values.new_full((1,), absent)])[self.sources]

    def forward(self, factors: Tensor, logs: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and what the explainer says (None unless steered).

        Args:
            factors: (positions,) gate values, without gradient.
            logs: (positions,) their logarithms: only their gradient counts.
        """
        self._dial.factors, self._dial.logs = factors, logs
        logits = self.classifier(images)
        params = None
        if self.selector is not None and self._capture is not None:
            params = self.selector(self._capture.take(), labels)
        self._dial.factors = self._dial.logs = None
        return logits, params


class GatedNetwork(nn.Module):
    """Gates + frozen network as one module: what ``fit`` trains. Only the gates have gradients.

    ``network`` stays as it is; ``FastNetwork`` works in its place, with every normalisation folded that can be:
    compared with ``masked`` in float64, on two images of ``batch``, at random gates.

    Raises:
        PruningError: the fast form computes something else.
    """

    def __init__(
        self, network: nn.Module, gates: Gates, groups: Sequence[ChannelGroup], batch: Batch, *, steered: bool
    ) -> None:
        super().__init__()
        self.gates = gates
        pairs = proven_pairs(network, groups, batch.images[:2], batch.labels[:2], steered=steered)
        self.fast = FastNetwork(network, groups, pairs, steered=steered)
        self._compiled: Callable[..., tuple[Tensor, Tensor | None]] | None = None
        self._compiled_for: torch.Size | None = None

    def forward(
        self, images: Tensor, labels: Tensor, *, noise: float, temperature: float
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits, what the explainer says (None unless steered) and the one gate sample that made them."""
        values, logs = self.gates.sample(noise=noise, temperature=temperature)
        # A last batch of another size runs eagerly: it would have to be compiled, too.
        compiled = self._compiled if images.shape == self._compiled_for else None
        fast = self.fast
        logits, params = (compiled or fast)(fast.spread(values.detach(), 1), fast.spread(logs, 0), images, labels)
        return logits, params, values

    def compile_(self, batch: Batch, progress: Progress = SILENT) -> bool:
        """Compile for batches like ``batch``, on the device and under the autocast that they will come with.

        What cannot be compiled, or then computes something else, stays eager; a note says why.
        """
        eager = self._probe(self.fast, batch)
        started = time.perf_counter()
        compiled = torch.compile(self.fast.forward, dynamic=False, fullgraph=True)
        try:
            with _without_remarks():
                found = self._probe(compiled, batch)
        except (RuntimeError, OSError) as error:  # of the compiler: the same step has just run without it
            progress.note(f"gates: the step runs eagerly, it cannot be compiled ({_first_line(error)})")
            return False
        difference = max_relative(found, eager)
        if difference > COMPILED_TOLERANCE[_precision(batch.images.device)]:
            progress.note(f"gates: the step runs eagerly, compiled it differs by {difference:.1e}")
            return False
        self._compiled, self._compiled_for = compiled, batch.images.shape
        progress.note(f"gates: compiled the step in {time.perf_counter() - started:.0f} s")
        return True

    def _probe(self, run: Callable[..., tuple[Tensor, Tensor | None]], batch: Batch) -> list[Tensor]:
        """Outputs and the gradient of their squares at random gates: forward and backward as in a step."""
        values = _random_gates(self.gates.theta)
        logs = self.fast.spread(values.log(), 0).requires_grad_()
        outputs = [x for x in run(self.fast.spread(values, 1), logs, batch.images, batch.labels) if x is not None]
        loss = torch.stack([x.float().square().mean() for x in outputs]).sum()
        return [*(x.detach().float() for x in outputs), *torch.autograd.grad(loss, logs)]


def proven_pairs(
    network: nn.Module, groups: Sequence[ChannelGroup], images: Tensor, labels: Tensor, *, steered: bool
) -> tuple[FoldPair, ...]:
    """The normalisations that fold into the layer before them: all that do at once, else those that do alone.

    Raises:
        PruningError: without any folded, the fast network is not the gated one.
    """
    network, images = copy.deepcopy(network).double(), images.double()
    names, widths = [group.name for group in groups], [group.channels for group in groups]
    values = _random_gates(images.new_zeros(sum(widths)))
    classifier = network.classifier if isinstance(network, ExplainedClassifier) else network

    def plain() -> list[Tensor]:
        return list(network(images, labels)) if steered else [classifier(images)]

    def differs(pairs: Sequence[FoldPair]) -> bool:
        fast = FastNetwork(network, groups, pairs, steered=steered)
        outputs = fast(fast.spread(values, 1), fast.spread(values.log(), 0), images, labels)
        return max_relative([x for x in outputs if x is not None], expected) > TOLERANCE

    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        with masked(network, groups, dict(zip(names, torch.split(values, widths), strict=True))):
            expected = plain()
        pairs = find_fold_pairs(network, plain)
        if differs(pairs):
            pairs = tuple(pair for pair in pairs if not differs([pair]))
        if differs(pairs):
            pairs = ()
        if not pairs and differs(pairs):
            raise PruningError(
                f"gates in the weights of {type(network).__name__} do not do what gates on its activations do (are its "
                "outputs finite numbers, and are its layers called as they are defined?); check the model, or rank by "
                "weights: gates.steer=magnitude"
            )
    return pairs


def _random_gates(like: Tensor) -> Tensor:
    """Values between one quarter and one: none so small that it hides what stands behind it."""
    generator = torch.Generator().manual_seed(0)
    return (0.25 + 0.75 * torch.rand(like.shape, generator=generator, dtype=torch.float64)).to(like)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Within the block torch's extension builder does not remark that a machine without a GPU has none."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _precision(device: torch.device) -> torch.dtype:
    """What convolutions compute in here."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
