"""Assertion on all limits of a budget file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch

from slimsight.compress.errors import ConfigError

from ..check import CheckRequest, run_check
from ..check.result import check_line
from .arguments import Images, to_shape
from .outcome import AssertionOutcome, value_or_raise


def assert_budget(
    target: str | PathLike[str],
    budget: str | PathLike[str],
    *,
    against: str | PathLike[str] | None = None,
    x: Images | None = None,
    classes: int = 1000,
) -> None:
    """Fail if ``target`` breaks a limit of a budget file: ``slimsight check`` as an assertion.

    Args:
        target: a run directory, a ``.onnx`` or ``.pt2`` file, or ``path/to/file.py:factory``.
        budget: the budget file (YAML).
        against: another target, or what ``slimsight check --json`` wrote: limits on growth refer to it.
        x: the shape of one image (``"3x224x224"``), where the target does not say it.
        classes: for a factory that takes their number.

    Raises:
        AssertionError: a line for every limit that is exceeded, with the layers that cost most or have grown.
        SlimError: the target or the budget file cannot be read.
    """
    __tracebackhide__ = True
    value_or_raise(
        lambda: _check_budget(str(target), Path(budget), None if against is None else str(against), x, classes)
    )


def _check_budget(target: str, budget: Path, against: str | None, x: Images | None, classes: int) -> AssertionOutcome:
    verdict = run_check(CheckRequest(target, budget, against, None if x is None else _one_image(x), classes)).verdict
    failed = verdict.failed
    if verdict.passed:
        return AssertionOutcome(0, None)
    lines = [f"{target} against {budget}: {verdict.summary()}", *map(check_line, failed)]
    return AssertionOutcome(len(failed), "\n".join(lines))


def _one_image(x: Images) -> tuple[int, int, int]:
    sides = tuple(x.shape) if isinstance(x, torch.Tensor) else to_shape(x)
    if len(sides) not in (3, 4):
        raise ConfigError(f"x is {sides}: give the shape of one image, such as '3x224x224'")
    channels, height, width = sides[-3:]
    return channels, height, width
