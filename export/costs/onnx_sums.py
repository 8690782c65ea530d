"""The factors of an einsum of two operands: how many products of which kind its equation sums up."""

from __future__ import annotations

import math
from collections.abc import Sequence


def einsum_factors(
    equation: str, shapes: Sequence[tuple[int, ...]], *, weight: int
) -> tuple[int, int, int, int] | None:
    """(contracted, outputs, groups, positions), whose product is the MACs; None where nothing is summed up.

    Indices that only one operand has and the result has not are summed up before the product, as torch does.

    Args:
        equation: of two operands; with or without ``->``, with or without ``...``.
        weight: which of the two is the weight.

    Raises:
        ValueError: the equation does not fit the shapes.
    """
    given, arrow, result = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"the equation '{equation}' has {len(terms)} operands, and {len(shapes)} are given")
    sizes: dict[str, int] = {}
    indices = [_index_sizes(term, shape, sizes) for term, shape in zip(terms, shapes, strict=True)]
    if arrow:
        wanted = {*result.replace("...", "")} | {index for index in sizes if index.isdigit() and "..." in result}
    else:
        joined = given.replace(",", "").replace("...", "")
        wanted = {index for index in sizes if index.isdigit() or joined.count(index) == 1}
    ours, theirs = indices[weight], indices[1 - weight]
    contracted = (ours & theirs) - wanted
    if not contracted:
        return None

    def count(names: set[str]) -> int:
        return math.prod(sizes[name] for name in names)

    return (
        count(contracted),
        count((ours - theirs) & wanted),
        count(ours & theirs & wanted),
        count((theirs - ours) & wanted),
    )


def _index_sizes(term: str, shape: tuple[int, ...], sizes: dict[str, int]) -> set[str]:
    """The indices of an operand; ``sizes`` gets theirs. Dimensions of ``...`` are numbered from the last."""
    before, dots, after = term.partition("...")
    free = len(shape) - len(before) - len(after)
    if free < 0 or (free and not dots):
        raise ValueError(f"'{term}' does not name the dimensions of a tensor of shape {shape}")
    names = [*before, *(str(number) for number in range(free - 1, -1, -1)), *after]
    for name, size in zip(names, shape, strict=True):
        if size != 1 and sizes.get(name, 1) not in (1, size):
            raise ValueError(f"the index '{name}' is of size {sizes[name]} and of size {size}")
        sizes[name] = max(size, sizes.get(name, 1))
    return {name for name, size in zip(names, shape, strict=True) if size != 1 or not name.isdigit()}
