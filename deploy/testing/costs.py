"""Assertions on what can be counted: MACs, parameters, bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from slimsight.compress.amounts import BYTE_UNITS, MACS_UNITS, PARAM_UNITS, Amount, to_amount
from slimsight.compress.macs import MacsCount, count_macs, count_params, size_bytes
from slimsight.compress.models.user_code import UserCode
from slimsight.compress.modules import tensors_of

from ..report.schema import Unit
from .arguments import Images, check_module, to_images, to_maximum
from .outcome import AssertionOutcome, check_cost, value_or_raise

_read_macs = partial(to_amount, what="MACs", units=MACS_UNITS, example="'60M', '0.5 GMACs', 4e9")
_read_params = partial(to_amount, what="parameters", units=PARAM_UNITS, example="'250k', '11M'")
_read_bytes = partial(to_amount, what="bytes", units=BYTE_UNITS, example="'2MB', '800kB', '2MiB'")


def assert_macs(model: nn.Module, x: Images, max: str | float, *, against: nn.Module | None = None) -> int:
    """Fail if one image costs more than ``max`` multiply-accumulates of convolutions and linear layers.

    Args:
        model: in any mode, on any device; not changed.
        x: images (N, C, H, W) as the model takes them, or the shape of one: ``"3x224x224"``, ``(3, 224, 224)``.
        max: ``"60M"``, ``60e6``, or a share of the MACs of ``against``: ``"50%"``, 0.5.
        against: what a share refers to: the original, say.

    Returns: the MACs of one image.

    Raises:
        AssertionError: more; the text names the three layers that cost most.
        SlimError: the model does not take such images, or ``max`` is not a valid limit on MACs.
    """
    __tracebackhide__ = True
    return int(value_or_raise(lambda: _check_macs(model, x, max, against)))


def assert_params(model: nn.Module, max: str | float, *, against: nn.Module | None = None) -> int:
    """Fail if ``model`` has more than ``max`` parameters; a shared one counts once. As ``assert_macs``.

    Args:
        max: ``"250k"``, ``1_200_000``, or a share of the parameters of ``against``.
    """
    __tracebackhide__ = True
    return int(value_or_raise(lambda: _check_tensors(model, max, against, _PARAMS)))


def assert_size(model: nn.Module, max: str | float, *, against: nn.Module | None = None) -> int:
    """Fail if the tensors of ``model``, buffers included, have more than ``max`` bytes. As ``assert_macs``.

    Args:
        max: ``"2MB"`` (2,000,000 bytes), ``"800kB"``, ``"2MiB"``, or a share of the size of ``against``.
    """
    __tracebackhide__ = True
    return int(value_or_raise(lambda: _check_tensors(model, max, against, _SIZE)))


def _check_macs(model: nn.Module, x: Images, maximum: object, against: nn.Module | None) -> AssertionOutcome:
    check_module(model)
    limit, ratio = to_maximum(maximum, against, "MACs", read=_read_macs, cost=lambda other: _count(other, x).total)
    count = _count(model, x)
    heading = "layers with most MACs"
    return check_cost("MACs", count.total, limit, "MACs", by_layer=lambda: count.layers, heading=heading, ratio=ratio)


def _count(model: nn.Module, x: Images) -> MacsCount:
    images = to_images(x, model)[:1]
    with UserCode(f"the model does not take {'x'.join(map(str, images.shape[1:]))} images"):
        return count_macs(model, images)


def _check_tensors(model: nn.Module, maximum: object, against: nn.Module | None, cost: _TensorCost) -> AssertionOutcome:
    check_module(model)
    limit, ratio = to_maximum(maximum, against, cost.unit, read=cost.read, cost=cost.count)
    return check_cost(
        cost.name,
        cost.count(model),
        limit,
        cost.unit,
        by_layer=lambda: cost.by_layer(model),
        heading="largest layers",
        ratio=ratio,
    )


def _params_by_layer(model: nn.Module) -> dict[str, float]:
    """A shared parameter counts for the first layer that has it."""
    params: dict[str, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        params[_layer_of(name)] += parameter.numel()
    return params


def _bytes_by_layer(model: nn.Module) -> dict[str, float]:
    sizes: dict[str, float] = defaultdict(float)
    for name, tensor in tensors_of(model).items():
        sizes[_layer_of(name)] += tensor.numel() * tensor.element_size()
    return sizes


def _layer_of(tensor: str) -> str:
    """The module that a tensor belongs to; a tensor of the model's own is called by its name."""
    return tensor.rpartition(".")[0] or tensor


@dataclass(frozen=True)
class _TensorCost:
    """A cost that needs no image: how it is read and counted, in total and by layer."""

    name: str
    unit: Unit
    read: Callable[[object], Amount]
    count: Callable[[nn.Module], int]
    by_layer: Callable[[nn.Module], Mapping[str, float]]


_PARAMS = _TensorCost("parameters", "parameters", _read_params, count_params, _params_by_layer)
_SIZE = _TensorCost("size of the tensors", "bytes", _read_bytes, size_bytes, _bytes_by_layer)
