"""Limits to hold a model to: a budget file, and its verdict on a report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BeforeValidator, ValidationError, field_validator, model_validator

from compress.amounts import BYTE_UNITS, COUNT_UNITS, TIME_UNITS, Amount, read_number, to_amount
from compress.config import Section
from compress.errors import ConfigError
from compress.registry import nearest

from .report.checks import all_parity, at_least, at_most, latency_within, parity_within, run_checks, speedups_at_least
from .report.drift_checks import DriftLimits, drift_within
from .report.schema import Check, Report, Verdict

__all__ = ["Amount", "BudgetFile", "check_report", "load_budget", "run_checks"]

_ROUNDING: Final = 1e-9  # accuracies are multiples of 1/images: far above this, and .90 - .89 > .01 in floats


def _to_share(value: object, *, what: str, example: str) -> float:
    parsed = read_number(value)
    number = math.nan if parsed is None else parsed[0] / (100 if parsed[1] == "%" else 1)
    if parsed is None or parsed[1] not in ("", "%") or not 0 <= number <= 1:
        raise ValueError(f"{value!r} is no {what}: give a share from 0 to 1 or a percentage ({example})")
    return number


def _to_drop(value: object) -> float:
    drop = _to_share(value, what="accuracy drop", example="0.01 or '1%' for one point")
    if drop == 1:
        raise ValueError(f"{value!r} is a drop by 100 points: write '1%' (or 0.01) for one point")
    return drop


def _to_parity(value: object) -> Literal[True] | float:
    parsed = read_number(value)
    if value is True:
        return True
    if parsed is None or parsed[1] != "" or parsed[0] <= 0:
        raise ValueError(
            f"{value!r} is no limit on parity: give true (every row passed) or the largest difference of "
            "logits allowed (1e-4); remove the line to check nothing"
        )
    return parsed[0]


def _to_speedup(value: object) -> float:
    parsed = read_number(value)
    if parsed is None or parsed[1] not in ("", "x") or parsed[0] <= 0:
        raise ValueError(f"{value!r} is no speed-up: give the least ratio allowed (1.3 or 1.3x)")
    return parsed[0]


_amount_of_macs = partial(to_amount, what="MACs", units=COUNT_UNITS, example="20M, 500k, 4e9")
_amount_of_params = partial(to_amount, what="parameters", units=COUNT_UNITS, example="250k, 11M")
_amount_of_bytes = partial(to_amount, what="bytes", units=BYTE_UNITS, example="1.2MB, 800kB, 2MiB")
_amount_of_time = partial(to_amount, what="latency", units=TIME_UNITS, example="3ms, 800us")
_least_accuracy = partial(_to_share, what="accuracy", example="0.88 or '88%'")


def _to_pixels(value: object) -> float:
    parsed = read_number(value)
    if parsed is None or parsed[1] not in ("", "px") or parsed[0] < 0:
        raise ValueError(f"{value!r} is no distance: give the most pixels allowed (3 or 3px)")
    return parsed[0]


_SHARES_OF_DRIFT: Final = {
    "iou": ("overlap of maps", "0.5 or '50%'"),
    "region_iou": ("overlap of regions", "0.5 or '50%'"),
    "moved": ("share of images", "0.1 or '10%'"),
    "lost": ("share of images", "0.01 or '1%'"),
}


def _to_drift(value: object) -> DriftLimits:
    names = list(DriftLimits.model_fields)
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"{value!r} limits no drift: give one or more of {', '.join(names)}, such as {{center_px: 3, iou: 0.5}}"
        )
    limits = {}
    for key, limit in value.items():
        if key not in names:
            raise ValueError(f"unknown key '{key}'{nearest(str(key), names)} (choose from: {', '.join(names)})")
        if limit is None:
            raise ValueError(f"'{key}' has no value: give one or remove it")
        try:
            if key == "center_px":
                limits[key] = _to_pixels(limit)
            else:
                what, example = _SHARES_OF_DRIFT[key]
                limits[key] = _to_share(limit, what=what, example=example)
        except ValueError as error:
            raise ValueError(f"'{key}': {error}") from None
    return DriftLimits(**limits)


class BudgetFile(Section):
    """The keys of a budget file; all optional, at least one.

    macs, params, size: the most allowed: a ratio to the original (at most 1, or a percentage) or an amount.
    latency: the most allowed of the median of every latency row: a ratio to the original or a time.
    accuracy: the least allowed, on the test images where they were evaluated, else on the validation images.
    accuracy_drop: the most slim may lose against the original, on the same images; '1%' is one point.
    parity: true (every row passed) or the largest ``max_abs`` of any row.
    speedup: the least allowed for the LOW end of the 95 % interval of every latency row, so that a
        lucky median does not pass.
    saliency_drift: limits on how far explanations moved, as means over the validation images: ``center_px`` (the
        most pixels that centres moved), ``iou`` and ``region_iou`` (the least overlap of maps, and of the regions
        with half of their mass), ``moved`` (the largest share of images whose top region went elsewhere), ``lost``
        (the largest share of images without an explanation in one of the models; 0 if not given).
    """

    macs: Annotated[Amount, BeforeValidator(_amount_of_macs)] | None = None
    params: Annotated[Amount, BeforeValidator(_amount_of_params)] | None = None
    size: Annotated[Amount, BeforeValidator(_amount_of_bytes)] | None = None
    latency: Annotated[Amount, BeforeValidator(_amount_of_time)] | None = None
    accuracy: Annotated[float, BeforeValidator(_least_accuracy)] | None = None
    accuracy_drop: Annotated[float, BeforeValidator(_to_drop)] | None = None
    parity: Annotated[Literal[True] | float, BeforeValidator(_to_parity)] | None = None
    speedup: Annotated[float, BeforeValidator(_to_speedup)] | None = None
    saliency_drift: Annotated[DriftLimits, BeforeValidator(_to_drift)] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_value(cls, value: object) -> object:
        if value is None:  # 'macs:' with nothing behind it would silently check nothing
            raise ValueError("has no value: give one or remove the line")
        return value

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetFile:
        if not self.model_fields_set:
            raise ValueError(f"it limits nothing: give at least one of {', '.join(type(self).model_fields)}")
        return self


def load_budget(path: Path) -> BudgetFile:
    """The budget file at ``path`` (YAML).

    Raises:
        ConfigError: it cannot be read, or has mistakes: all of them in one message, each with its key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"no budget file at {path}: check --budget") from None
    except OSError as error:
        raise ConfigError(f"cannot read the budget file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML ({reason}); write lines such as 'macs: 50%'") from error
    keys = [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a budget file: it holds {content!r}, not lines such as 'macs: 50%'")
    problems = [f"{key}: is given more than once" for key in sorted({key for key in keys if keys.count(key) > 1})]
    budget = None
    try:
        budget = BudgetFile.model_validate({str(key): value for key, value in content.items()})
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
    if budget is None or problems:
        raise ConfigError(f"{path} is not a usable budget file:\n" + "\n".join(f"  - {line}" for line in problems))
    return budget


def _problem(detail: Any) -> str:
    key = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        names = list(BudgetFile.model_fields)
        return f"{key}: unknown key{nearest(key, names)} (choose from: {', '.join(names)})"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def check_report(report: Report, budget: BudgetFile) -> Verdict:
    """Every limit of ``budget`` against ``report``. A figure that is missing fails its check."""
    checks = [*_cost_checks(report, budget), *_accuracy_checks(report, budget)]
    if budget.parity is True:
        checks.append(all_parity(report.parity))
    elif budget.parity is not None:
        checks.extend(parity_within(report.parity, budget.parity))
    if budget.latency is not None:
        checks.extend(latency_within(report.latency, budget.latency))
    if budget.speedup is not None:
        checks.extend(speedups_at_least(report.latency, budget.speedup))
    if budget.saliency_drift is not None:
        checks.extend(drift_within(report.saliency, budget.saliency_drift))
    return Verdict.of(checks)


def _cost_checks(report: Report, budget: BudgetFile) -> Iterator[Check]:
    original, slim = report.original, report.slim
    if budget.macs is not None:
        yield at_most("MACs", budget.macs.limit(original.macs), slim.macs, "MACs")
    if budget.params is not None:
        yield at_most("parameters", budget.params.limit(original.params), slim.params, "parameters")
    if budget.size is not None:
        yield at_most("size of the weights", budget.size.limit(original.size_bytes), slim.size_bytes, "bytes")


def _accuracy_checks(report: Report, budget: BudgetFile) -> Iterator[Check]:
    slim, original = report.slim, report.original
    if budget.accuracy is not None:
        tested = slim.test_accuracy is not None
        name, value = ("test", slim.test_accuracy) if tested else ("validation", slim.val_accuracy)
        yield at_least(f"{name} accuracy", budget.accuracy, value, "accuracy", slack=_ROUNDING)
    if budget.accuracy_drop is not None:
        name, drop = "validation", original.val_accuracy - slim.val_accuracy
        if slim.test_accuracy is not None and original.test_accuracy is not None:
            name, drop = "test", original.test_accuracy - slim.test_accuracy
        yield at_most(f"{name} accuracy drop", budget.accuracy_drop, round(drop, 10), "points", slack=_ROUNDING)
