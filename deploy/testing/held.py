"""How an assertion ends: a figure, or a failure that names what costs most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from slimsight.compress.amounts import Amount
from slimsight.compress.errors import ConfigError, SlimError

from ..report.units import as_percent

_DEAREST = 3


@dataclass(frozen=True)
class Held:
    """A figure and, where it is above its limit, the text of the failure."""

    value: float
    failure: str | None


def judge(
    name: str,
    value: float,
    limit: float,
    as_text: Callable[[float], str],
    *,
    parts: Callable[[], Mapping[str, float]],
    what: str,
    ratio: str = "",
    notes: tuple[str, ...] = (),
) -> Held:
    """``value`` against the most allowed.

    Args:
        as_text: both in words.
        parts: what the value is made of, by layer; asked only after a failure.
        what: what the layers are the dearest of: ``most MACs``.
        ratio: what a relative limit came from: ``50.0 % of 40.55 M``.
        notes: lines that follow, each on its own.
    """
    if value <= limit:
        return Held(value, None)
    shown, allowed = as_text(value), as_text(limit)
    if shown == allowed:  # rounding must not make what failed look allowed
        shown, allowed = repr(value), repr(limit)
    origin = f" ({ratio})" if ratio else ""
    over = f"{as_text(value - limit)} too much, {as_percent(value / limit - 1, 1)} over"
    lines = [f"{name}: {shown}, at most {allowed}{origin} allowed: {over}", *notes]
    layers = parts()
    total = sum(layers.values())
    dearest = sorted(layers.items(), key=lambda item: -item[1])[:_DEAREST]
    if total > 0 and dearest:
        lines.append(f"{what}:")
        rows = [(layer, as_text(cost), as_percent(cost / total, 1)) for layer, cost in dearest]
        name_width, cost_width, share_width = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines += [
            f"  {layer:{name_width}}  {cost:>{cost_width}}  {share:>{share_width}}" for layer, cost, share in rows
        ]
    return Held(value, "\n".join(lines))


def end(measure: Callable[[], Held]) -> float:
    """The figure of ``measure``.

    Raises:
        AssertionError: it is above its limit.
        SlimError: what was asked means nothing; one sentence, and of the traceback only the caller's part.
    """
    __tracebackhide__ = True
    try:
        held = measure()
    except SlimError as error:
        raise error.with_traceback(None) from None
    if held.failure is not None:
        raise AssertionError(held.failure)
    return held.value


def to_limit(
    most: object,
    against: nn.Module | None,
    *,
    read: Callable[[object], Amount],
    cost: Callable[[nn.Module], float],
    as_text: Callable[[float], str],
) -> tuple[float, str]:
    """The most allowed, and where it comes from if it is a share of another model's ``cost``.

    Raises:
        ConfigError: no amount, a share of nothing, or a second model that an amount does not need.
    """
    try:
        amount = read(most)
    except ValueError as error:
        raise ConfigError(f"max: {error}") from None
    if not amount.relative:
        if against is not None:
            raise ConfigError(
                f"max={most!r} is an amount, and against= gives a model that it does not refer to: "
                "give a share (max='50%'), or leave against= out"
            )
        return amount.value, ""
    if against is None:
        raise ConfigError(
            f"max={most!r} is a share of another model's: say of which (against=original), or give an amount"
        )
    base = cost(check_module(against, "against"))
    return amount.of(base), f"{as_percent(amount.value, 1)} of {as_text(base)}"


def check_module(model: object, name: str = "model") -> nn.Module:
    """Raises ConfigError where ``model`` is no module."""
    if isinstance(model, nn.Module):
        return model
    shown = f"the class {model.__name__}" if isinstance(model, type) else f"of type {type(model).__name__}"
    hint = "call it first" if isinstance(model, type) or callable(model) else "files are for 'slimsight check'"
    raise ConfigError(f"{name} is {shown}: give a torch.nn.Module; {hint}")
