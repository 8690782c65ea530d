"""The batch sizes that an engine is built for, and the result of an engine's export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from slimsight.compress.errors import ExportError

from .flavour import Flavour

Precision = Literal["fp32", "fp16", "int8"]
ReadFrom = Literal["inspector", "build log"]


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of an engine: the smallest, the one that it is tuned for, and the largest.

    Raises:
        ExportError: not 1 <= min <= opt <= max.
    """

    min: int = 1
    opt: int = 1
    max: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ExportError(f"batch sizes {self.min}, {self.opt}, {self.max}: need 1 <= min <= opt <= max")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct sizes, ascending."""
        return tuple(sorted({self.min, self.opt, self.max}))


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine; -1 in ``shape`` is the batch; ``dtype`` is numpy's name, e.g. ``float32``."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class EngineResult:
    """An exported engine, with its layers and types as TensorRT reports them.

    ``layers`` counts the parsed network's convolutions and matrix products by the type they compute in;
    ``engine_layers`` counts the layers of the built engine by the types of their inputs and outputs, and ``read_from``
    is the source of that: the engine's ``inspector`` (needs a GPU) or the ``build log``. ``kept_fp32`` are the values
    of the graph that overflow FP16. ``top1_agreement`` (0..1) and ``p99_abs`` (units of logits) compare the FP16 graph
    with the FP32 one on the samples, before an engine is built, and ``route_agreement`` (0..1) the choices of a routed
    graph; None in FP32, without samples or without routes. ``integer_layers`` and ``float_layers``: of an INT8 engine,
    the graph's convolutions and matrix products that the engine computes from integers, and the others.
    """

    path: Path
    flavour: Flavour
    version: str
    precision: Precision
    profile: BatchProfile
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    layers: Mapping[str, int]
    engine_layers: Mapping[str, int]
    read_from: ReadFrom
    conditionals: int
    kept_fp32: tuple[str, ...]
    top1_agreement: float | None
    p99_abs: float | None
    route_agreement: float | None
    machine: Mapping[str, str]
    size_bytes: int
    seconds: float
    reused: bool
    integer_layers: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Its fields as plain data, for JSON."""
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> EngineResult:
        """The inverse of ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError: ``stored`` is not such a dictionary.
        """
        tensors = {
            side: tuple(EngineTensor(item["name"], tuple(item["shape"]), item["dtype"]) for item in stored[side])
            for side in ("inputs", "outputs")
        }
        named = {"path": Path(stored["path"]), "profile": BatchProfile(**stored["profile"])}
        names = {name: tuple(stored.get(name, ())) for name in ("kept_fp32", "integer_layers", "float_layers")}
        return cls(**{**stored, **tensors, **named, **names})
