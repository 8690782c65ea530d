"""Recipe section ``budget``: limits on MACs, parameters, size and latency of the slim model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from ..amounts import BYTE_UNITS, MACS_UNITS, PARAM_UNITS, TIME_UNITS, Amount, number_pattern, to_amount
from .base import Million, Section


def _read_limit(what: str, units: Mapping[str, float], example: str) -> BeforeValidator:
    """Validator for a limit below the original's amount."""

    def read(value: object) -> Amount:
        amount = to_amount(value, what=what, units=units, example=example)
        if amount.relative and amount.value == 1:
            raise ValueError(
                f"{value!r} limits nothing: give a ratio to the original below 1 (0.5 or 50%) or {example}"
            )
        return amount

    return BeforeValidator(read)


def _write_number(amount: Amount) -> float:
    return amount.value


def _write_time(amount: Amount) -> float | str:
    return amount.value if amount.relative else f"{amount.value!r}ms"


def _written(units: Mapping[str, float]) -> WithJsonSchema:
    number: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0}
    if "" not in units:
        number["maximum"] = 1  # a ratio
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": number_pattern(["%", *units])}]})


_NUMBER = PlainSerializer(_write_number)
MacsLimit = Annotated[Amount, _read_limit("MACs", MACS_UNITS, "20M, 500k, 4e9"), _NUMBER, _written(MACS_UNITS)]
ParamsLimit = Annotated[Amount, _read_limit("parameters", PARAM_UNITS, "250k, 1.2M"), _NUMBER, _written(PARAM_UNITS)]
SizeLimit = Annotated[Amount, _read_limit("bytes", BYTE_UNITS, "2MB, 800kB, 2MiB"), _NUMBER, _written(BYTE_UNITS)]
LatencyLimit = Annotated[
    Amount, _read_limit("latency", TIME_UNITS, "3ms, 800us"), PlainSerializer(_write_time), _written(TIME_UNITS)
]


class BudgetConfig(Section):
    """What the slim model may cost at most (``budget``): one limit or several, all of which hold; else half the MACs.

    Each is a ratio to the original (0.5 or 50%) or an amount. Latency is the median in the runtime, threads and batch
    of ``latency``.
    """

    macs: MacsLimit | None = Field(
        default=None, description="a ratio (0.5 or 50%) or a number of MACs (20M)", examples=["50%", 0.5, "20M"]
    )
    params: ParamsLimit | None = Field(
        default=None, description="a ratio (0.4 or 40%) or a number (1.2M)", examples=["40%", "1.2M"]
    )
    size: SizeLimit | None = Field(
        default=None, description="of the tensors: a ratio or bytes (2MB)", examples=["40%", "2MB"]
    )
    latency: LatencyLimit | None = Field(
        default=None, description="measured: a ratio to the original's or 3ms", examples=["60%", "3ms"]
    )
    align: Million | Literal["auto"] = Field(
        default=1, description="channels kept in multiples of this, where a group is large enough; auto: by timing"
    )
    latency_aware: bool = Field(
        default=False,
        description="among plans within budget.macs choose by layer times, measured here in ONNX Runtime on the CPU",
    )
    precision: Literal["fp32", "int8"] = Field(
        default="fp32",
        description="of the file that latency, align auto and latency_aware are about; int8: plans are timed by "
        "integer kernels, and latency limits the slim model's INT8 file, a ratio against the original in FP32",
    )
    rank_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0,
        description="how much ranks decide widths where several budgets bind; 0: they decide within groups only",
    )

    @model_validator(mode="before")
    @classmethod
    def _half_the_macs_by_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and not any(name in values for name in cls.limited()):
            return {**values, "macs": 0.5}
        return values

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetConfig:
        if not self.limits:
            raise ValueError(f"no limit is given: give at least one of {', '.join(self.limited())}, e.g. macs: 50%")
        if self.latency_aware and self.macs is None and self.latency is None:
            raise ValueError(
                "latency_aware chooses among the plans within macs, and no macs is given: give macs or latency, or set "
                "latency_aware: false"
            )
        if self.precision == "int8" and not self.timed:
            raise ValueError(
                "precision is int8, and no time decides the plan: give latency, align: auto or latency_aware: true, or "
                "leave precision out"
            )
        return self

    @property
    def timed(self) -> bool:
        """Whether layer times, measured where the run is, decide the plan."""
        return self.latency is not None or self.align == "auto" or self.latency_aware

    @staticmethod
    def limited() -> tuple[str, ...]:
        """The resources that can be limited."""
        return ("macs", "params", "size", "latency")

    @property
    def limits(self) -> dict[str, Amount]:
        """The limits given, by resource."""
        return {name: getattr(self, name) for name in self.limited() if getattr(self, name) is not None}
