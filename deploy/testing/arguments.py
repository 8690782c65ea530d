"""Arguments of assertions: a model, images or their shape, and the most allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor, nn

from slimsight.compress.amounts import Amount, read_count, read_number
from slimsight.compress.errors import ConfigError
from slimsight.compress.files.untrusted import printable

from ..budget import allowed_amount
from ..report.schema import Unit
from ..report.units import as_percent, as_unit

Images: TypeAlias = Tensor | str | Sequence[int]
"""(N, C, H, W) or (C, H, W), floating point; or a shape of these: ``"3x224x224"``, ``(3, 224, 224)``."""

_SEED = 0
_MOST_VALUES = 2**28
"""Drawn where a shape is given: 1 GiB."""


def to_images(x: Images, model: nn.Module) -> Tensor:
    """Images (N, C, H, W) on the model's device and in its dtype; drawn in [0, 1] where only a shape is given.

    Raises:
        ConfigError: ``x`` is neither images nor a shape of images.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    if isinstance(x, Tensor):
        if x.dim() not in (3, 4) or 0 in x.shape or not x.is_floating_point():
            raise _not_images(f"a tensor {tuple(x.shape)} {x.dtype}")
        images = x.detach()
    else:
        shape = to_shape(x)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(_SEED))
    images = images if images.dim() == 4 else images[None]
    return images.to(first.device, first.dtype)


def to_shape(x: object) -> tuple[int, ...]:
    """(C, H, W) or (N, C, H, W); raises ConfigError for anything else."""
    parts: Sequence[object] = x.lower().split("x") if isinstance(x, str) else x if isinstance(x, Sequence) else ()
    numbers = [read_count(part, _MOST_VALUES) if isinstance(part, str) else part for part in parts]
    sides = tuple(n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n > 0)
    if len(sides) != len(parts) or len(sides) not in (3, 4) or prod(sides) > _MOST_VALUES:
        raise _not_images(repr(x))
    return sides


def _not_images(given: str) -> ConfigError:
    return ConfigError(
        f"x is {printable(given)}: give images as a floating point tensor (N, 3, H, W), or their shape, such as "
        f"'3x224x224' or (3, 224, 224), of at most {_MOST_VALUES:,} values"
    )


def to_maximum(
    given: object,
    against: nn.Module | None,
    unit: Unit,
    *,
    read: Callable[[object], Amount],
    cost: Callable[[nn.Module], float],
) -> tuple[float, str]:
    """The most allowed, in ``unit``; and for a share of another model's ``cost``, where it comes from.

    Raises:
        ConfigError: ``given`` is not valid, is a share without ``against``, or an amount with it.
    """
    try:
        amount = read(given)
    except ValueError as error:
        raise ConfigError(f"max: {error}") from None
    if not amount.relative:
        if against is not None:
            raise ConfigError(
                f"max={given!r} is an amount, and against= gives a model that it does not refer to: "
                "give a share (max='50%'), or leave against= out"
            )
        return allowed_amount(amount, 0, unit), ""
    if against is None:
        raise ConfigError(
            f"max={given!r} is a share of another model's: say of which (against=original), or give an amount"
        )
    original = cost(check_module(against, "against"))
    return allowed_amount(amount, original, unit), f"{as_percent(amount.value, 1)} of {as_unit(unit, original)}"


def is_share(given: object) -> bool:
    """Whether a limit is a share of another model's: ``"50%"``, 0.5."""
    number = read_number(given)
    return number is not None and (number[1] == "%" or (number[1] == "" and number[0] <= 1))


def check_module(model: object, name: str = "model") -> nn.Module:
    """``model``; raises ConfigError where it is not a module."""
    if isinstance(model, nn.Module):
        return model
    shown = f"the class {model.__name__}" if isinstance(model, type) else f"of type {type(model).__name__}"
    hint = "call it first" if isinstance(model, type) or callable(model) else "files are for 'slimsight check'"
    raise ConfigError(f"{name} is {shown}: give a torch.nn.Module; {hint}")
