"""Batch normalisation in eval mode is a scale and a shift per channel: the layer before it can carry both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class FoldedNorm1d(nn.BatchNorm1d):
    """What is left of a normalisation that the layer before it carries: its name, its hooks, no work."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class FoldedNorm2d(nn.BatchNorm2d):
    """The same for feature maps."""

    def forward(self, input: Tensor) -> Tensor:
        return input


# Exactly these: a subclass may do more than its name says.
_PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class FoldPair:
    """A convolution or linear layer and the normalisation that reads its output, by name."""

    producer: str
    norm: str


@torch.no_grad()
def find_fold_pairs(network: nn.Module, run: Callable[[], object]) -> tuple[FoldPair, ...]:
    """Pairs where a normalisation reads the very tensor that a layer put out, each called once in ``run()``.

    Whether somebody else reads that tensor too cannot be seen here: compare the outputs after folding.
    """
    made: dict[int, tuple[str, Tensor, int]] = {}  # outputs are kept: their ids stay theirs
    calls: Counter[str] = Counter()
    pairs: list[FoldPair] = []

    def put_out(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            calls[name] += 1
            if isinstance(output, Tensor):
                made[id(output)] = (name, output, output._version)

        return hook

    def read(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[object, ...]) -> None:
            calls[name] += 1
            producer, output, version = made.get(id(inputs[0]), (None, None, 0))
            # A higher version: something changed the tensor in place on its way.
            if producer is not None and output is not None and output._version == version:
                pairs.append(FoldPair(producer, name))

        return hook

    handles = []
    for name, module in network.named_modules():
        if type(module) in _PRODUCERS:
            handles.append(module.register_forward_hook(put_out(name)))
        elif type(module) in _NORMS and _is_affine_in_eval(module):
            handles.append(module.register_forward_pre_hook(read(name)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    readers = Counter(pair.producer for pair in pairs)
    return tuple(
        pair for pair in pairs if calls[pair.producer] == calls[pair.norm] == 1 and readers[pair.producer] == 1
    )


def _is_affine_in_eval(norm: nn.Module) -> bool:
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


@torch.no_grad()
def fold_(network: nn.Module, pairs: Sequence[FoldPair]) -> None:
    """Fold each normalisation into its producer, which then carries weight * s and (bias - mean) * s + beta.

    s = gamma / sqrt(var + eps), computed in float64. Parameters shared with other layers stay theirs.
    """
    modules = dict(network.named_modules())
    for pair in pairs:
        producer, norm = modules[pair.producer], modules[pair.norm]
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = producer.weight, producer.bias
        assert isinstance(weight, Tensor)
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean.double()
        if norm.affine:
            scale = scale * norm.weight.double()
        shift = shift * scale
        if norm.affine:
            shift = shift + norm.bias.double()
        scaled = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
        producer.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
        producer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
        norm.__class__ = FoldedNorm1d if isinstance(norm, nn.BatchNorm1d) else FoldedNorm2d
