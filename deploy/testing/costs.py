"""What can be counted: MACs, parameters, bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from slimsight.compress.amounts import BYTE_UNITS, MACS_UNITS, PARAM_UNITS, Amount, to_amount
from slimsight.compress.macs import MacsCount, count_macs, count_params, size_bytes
from slimsight.compress.models.user_code import UserCode

from ..report.units import as_bytes, as_count, as_macs
from .held import Held, check_module, end, judge, to_limit
from .images import Images, to_images

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
        SlimError: the model does not take such images, or ``max`` is no limit on MACs.
    """
    __tracebackhide__ = True
    return int(end(lambda: _macs(model, x, max, against)))


def assert_params(model: nn.Module, max: str | float, *, against: nn.Module | None = None) -> int:
    """Fail if ``model`` has more than ``max`` parameters; a shared one counts once. As ``assert_macs``.

    Args:
        max: ``"250k"``, ``1_200_000``, or a share of the parameters of ``against``.
    """
    __tracebackhide__ = True
    return int(end(lambda: _counted(model, max, against, _PARAMS)))


def assert_size(model: nn.Module, max: str | float, *, against: nn.Module | None = None) -> int:
    """Fail if the tensors of ``model``, buffers included, have more than ``max`` bytes. As ``assert_macs``.

    Args:
        max: ``"2MB"`` (2,000,000 bytes), ``"800kB"``, ``"2MiB"``, or a share of the size of ``against``.
    """
    __tracebackhide__ = True
    return int(end(lambda: _counted(model, max, against, _SIZE)))


def _macs(model: nn.Module, x: Images, most: object, against: nn.Module | None) -> Held:
    check_module(model)

    def cost(of: nn.Module) -> float:
        return _count(of, x).total

    limit, ratio = to_limit(most, against, read=_read_macs, cost=cost, as_text=as_macs)
    found = _count(model, x)
    return judge(
        "MACs", found.total, limit, as_macs, parts=lambda: found.layers, what="layers with most MACs", ratio=ratio
    )


def _count(model: nn.Module, x: Images) -> MacsCount:
    images = to_images(x, model)[:1]
    with UserCode(f"the model does not take {'x'.join(map(str, images.shape[1:]))} images"):
        return count_macs(model, images)


def _counted(model: nn.Module, most: object, against: nn.Module | None, of: _Counted) -> Held:
    check_module(model)
    limit, ratio = to_limit(most, against, read=of.read, cost=of.count, as_text=of.as_text)
    return judge(
        of.name,
        of.count(model),
        limit,
        of.as_text,
        parts=lambda: of.parts(model),
        what="largest layers",
        ratio=ratio,
    )


def _params(model: nn.Module) -> dict[str, float]:
    """By layer; a shared one belongs to the first."""
    found: dict[str, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        found[_layer(name)] += parameter.numel()
    return found


def _bytes(model: nn.Module) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for name, tensor in model.state_dict().items():
        found[_layer(name)] += tensor.numel() * tensor.element_size()
    return found


def _layer(tensor: str) -> str:
    """The module that a tensor belongs to; a tensor of the model's own is called by its name."""
    return tensor.rpartition(".")[0] or tensor


@dataclass(frozen=True)
class _Counted:
    """A cost that needs no image: how it is counted, read and written, whole and by layer."""

    name: str
    read: Callable[[object], Amount]
    count: Callable[[nn.Module], int]
    as_text: Callable[[float], str]
    parts: Callable[[nn.Module], Mapping[str, float]]


_PARAMS = _Counted("parameters", _read_params, count_params, as_count, _params)
_SIZE = _Counted("size of the tensors", _read_bytes, size_bytes, as_bytes, _bytes)
