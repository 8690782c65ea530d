"""Budget files: their keys, how values are parsed and described as JSON Schema, and reading a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator

from slimsight.compress.amounts import (
    BYTE_UNITS,
    MACS_UNITS,
    PARAM_UNITS,
    TIME_UNITS,
    Amount,
    number_pattern,
    read_number,
    to_amount,
)
from slimsight.compress.config import Section
from slimsight.compress.config.shares import read_agreement, read_drop, read_share
from slimsight.compress.errors import ConfigError
from slimsight.compress.files.untrusted import read_text

from ..settings.allowed import Allowed, Problems, shown_value, without_null
from ..settings.latency import LatencyConfig
from ..settings.yaml_text import MOST_YAML, Place, line_of, read_yaml
from .limit import Levels, Limit

read_macs = partial(to_amount, what="MACs", units=MACS_UNITS, example="20M, 500k, 0.5 GMACs, 4e9")
read_params = partial(to_amount, what="parameters", units=PARAM_UNITS, example="250k, 11M")
read_size = partial(to_amount, what="bytes", units=BYTE_UNITS, example="1.2MB, 800kB, 2MiB")
read_latency = partial(to_amount, what="latency", units=TIME_UNITS, example="3ms, 800us")


read_accuracy = partial(read_share, what="accuracy", example="0.88 or '88%'")
read_overlap = partial(read_share, what="overlap of maps", example="0.5 or '50%'")
read_region_overlap = partial(read_share, what="overlap of regions", example="0.5 or '50%'")
read_moved = partial(read_share, what="share of images", example="0.1 or '10%'")
read_integer_layers = partial(read_share, what="share of layers", example="0.95 or '95%'")
read_drift_share = partial(read_share, what="share of the way to chance", example="0.5 or '50%'")
read_lost = partial(read_share, what="share of images", example="0.01 or '1%'")


def read_growth(value: object) -> float:
    """Relative growth allowed: ``2%`` or 0.02."""
    growth = read_share(value, what="growth", example="0.02 or '2%'; 0 lets nothing grow")
    if growth == 1 and "%" not in str(value):
        raise ValueError(f"{value!r} would let it double: write '1%' (or 0.01), or '100%' if that is meant")
    return growth


def read_parity(value: object) -> Literal[True] | float:
    parsed = read_number(value)
    if value is True:
        return True
    if parsed is None or parsed[1] != "" or parsed[0] <= 0:
        raise ValueError(
            f"{value!r} is not a valid limit on parity: give true (every row passed) or the largest difference of "
            "logits allowed (1e-4); remove the line to check nothing"
        )
    return parsed[0]


def read_true(value: object) -> Literal[True]:
    if value is True:
        return True
    raise ValueError(f"{value!r} is not a valid choice: give true, or remove the line")


def read_speedup(value: object) -> float:
    parsed = read_number(value)
    if parsed is None or parsed[1] not in ("", "x") or parsed[0] <= 0:
        raise ValueError(f"{value!r} is not a valid speed-up: give the least ratio allowed (1.3 or 1.3x)")
    return parsed[0]


def read_pixels(value: object) -> float:
    parsed = read_number(value)
    if parsed is None or parsed[1] not in ("", "px") or parsed[0] < 0:
        raise ValueError(f"{value!r} is not a valid distance: give the most pixels allowed (3 or 3px)")
    return parsed[0]


def read_absolute(value: object, *, what: str, units: dict[str, float], example: str) -> Amount:
    """An absolute amount, of what has no original to take a share of: a layer, or a device."""
    parsed = read_number(value)
    known = parsed is not None and parsed[0] > 0 and parsed[1] in units
    if parsed is None or not known or (parsed[1] == "" and parsed[0] <= 1):
        raise ValueError(f"{value!r} is not a valid limit on {what}: give an amount ({example})")
    return Amount(parsed[0] * units[parsed[1]], relative=False)


read_device_latency = partial(read_absolute, what="latency on a device", units=TIME_UNITS, example="10ms, 800us")
read_layer_macs = partial(read_absolute, what="MACs of a layer", units=MACS_UNITS, example="5M, 500k, 0.5 GMACs")
read_layer_params = partial(read_absolute, what="parameters of a layer", units=PARAM_UNITS, example="36k, 1.2M")


def _number_schema(**bounds: float) -> dict[str, Any]:
    return {"type": "number", **bounds}


def _text_schema(*units: str) -> dict[str, Any]:
    return {"type": "string", "pattern": number_pattern(units)}


MACS: Final = {"anyOf": [_number_schema(exclusiveMinimum=0), _text_schema("%", *MACS_UNITS)]}
PARAMS: Final = {"anyOf": [_number_schema(exclusiveMinimum=0), _text_schema("%", *PARAM_UNITS)]}
SIZE: Final = {"anyOf": [_number_schema(exclusiveMinimum=0), _text_schema("%", *BYTE_UNITS)]}
LATENCY: Final = {"anyOf": [_number_schema(exclusiveMinimum=0, maximum=1), _text_schema("%", *TIME_UNITS)]}
LAYER_MACS: Final = {"anyOf": [_number_schema(exclusiveMinimum=1), _text_schema(*MACS_UNITS)]}
LAYER_PARAMS: Final = {"anyOf": [_number_schema(exclusiveMinimum=1), _text_schema(*PARAM_UNITS)]}
DEVICE_LATENCY: Final = {"anyOf": [_text_schema(*TIME_UNITS)]}
SHARE: Final = {"anyOf": [_number_schema(minimum=0, maximum=1), _text_schema("", "%")]}
SPEEDUP: Final = {"anyOf": [_number_schema(exclusiveMinimum=0), _text_schema("", "x")]}
PIXELS: Final = {"anyOf": [_number_schema(minimum=0), _text_schema("", "px")]}
TRUE: Final = {"const": True}
PARITY: Final = {"anyOf": [{"const": True}, _number_schema(exclusiveMinimum=0), _text_schema("")]}


Amounts: TypeAlias = Limit[Amount]
Numbers: TypeAlias = Limit[float]

MacsLimit: TypeAlias = Annotated[Amounts, Levels(read_macs, MACS, bound="max")]
ParamsLimit: TypeAlias = Annotated[Amounts, Levels(read_params, PARAMS, bound="max")]
SizeLimit: TypeAlias = Annotated[Amounts, Levels(read_size, SIZE, bound="max")]
LatencyLimit: TypeAlias = Annotated[Amounts, Levels(read_latency, LATENCY, bound="max")]
DeviceLatency: TypeAlias = Annotated[Amounts, Levels(read_device_latency, DEVICE_LATENCY, bound="max")]
LayerMacs: TypeAlias = Annotated[Amounts, Levels(read_layer_macs, LAYER_MACS, bound="max")]
LayerParams: TypeAlias = Annotated[Amounts, Levels(read_layer_params, LAYER_PARAMS, bound="max")]
Accuracy: TypeAlias = Annotated[Numbers, Levels(read_accuracy, SHARE, bound="min")]
Agreement: TypeAlias = Annotated[Numbers, Levels(read_agreement, SHARE, bound="min")]
Drop: TypeAlias = Annotated[Numbers, Levels(read_drop, SHARE, bound="max")]
Growth: TypeAlias = Annotated[Numbers, Levels(read_growth, SHARE, bound="max")]
SpeedUp: TypeAlias = Annotated[Numbers, Levels(read_speedup, SPEEDUP, bound="min")]
OwnChecks: TypeAlias = Annotated[Limit[Literal[True]], Levels(read_true, TRUE, bound="max")]
Parity: TypeAlias = Annotated[Limit[Literal[True] | float], Levels(read_parity, PARITY, bound="max")]
Pixels: TypeAlias = Annotated[Numbers, Levels(read_pixels, PIXELS, bound="max")]
Overlap: TypeAlias = Annotated[Numbers, Levels(read_overlap, SHARE, bound="min")]
RegionOverlap: TypeAlias = Annotated[Numbers, Levels(read_region_overlap, SHARE, bound="min")]
IntegerLayers: TypeAlias = Annotated[Numbers, Levels(read_integer_layers, SHARE, bound="min")]
Moved: TypeAlias = Annotated[Numbers, Levels(read_moved, SHARE, bound="max")]
DriftShare: TypeAlias = Annotated[Numbers, Levels(read_drift_share, SHARE, bound="max")]
Lost: TypeAlias = Annotated[Numbers, Levels(read_lost, SHARE, bound="max")]


def _key(description: str, *examples: Any) -> Any:
    return Field(default=None, description=description, examples=list(examples))


class _Limits(Section):
    """A section of limits, at least one of them given."""

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_value(cls, value: object) -> object:
        if value is None:  # 'macs:' with nothing behind it would silently check nothing
            raise ValueError("has no value: give one or remove the line")
        return value

    @model_validator(mode="after")
    def _limits_something(self) -> _Limits:
        if not self.model_fields_set:
            raise ValueError(f"it limits nothing: give at least one of {', '.join(self.limited())}")
        return self

    @classmethod
    def limited(cls) -> tuple[str, ...]:
        """The keys that are limits."""
        return tuple(cls.model_fields)


class DriftLimits(_Limits):
    """How far explanations may have moved, as means over the validation images (``saliency_drift``)."""

    center_px: Pixels | None = _key("the most pixels that the centres of explanations moved", 3, "3px")
    iou: Overlap | None = _key("the least overlap of the two models' maps", 0.5, "50%")
    share: DriftShare | None = _key(
        "the most of the way from no change (0) to the mean explanation in every image's place (1)", 0.5, "50%"
    )
    region_iou: RegionOverlap | None = _key("the least overlap of the regions with half of a map's mass", 0.5)
    moved: Moved | None = _key("the largest share of images whose top region went elsewhere", "10%")
    lost: Lost | None = _key("the largest share of images without an explanation in one of the models; default 0", "1%")


class Int8Limits(_Limits):
    """What the run's INT8 file for ONNX Runtime must keep (``int8``)."""

    accuracy_drop: Drop | None = _key(
        "the most points of accuracy lost against the same model in FP32, on test (or else validation) images", "0.5%"
    )
    agreement: Agreement | None = _key(
        "the least share of validation images on which it predicts the class that it predicts in FP32", "97%"
    )
    size: SizeLimit | None = _key(
        "the most bytes of the file: an amount, or a ratio to the original's FP32 file", "30%"
    )
    speedup: SpeedUp | None = _key("the least of the LOW end of its speed-up over the original in FP32", 3, "3x")
    overlap: RegionOverlap | None = _key(
        "the least overlap of the regions that it and the same model in FP32 look at, by occlusion", 0.8, "80%"
    )
    integer_layers: IntegerLayers | None = _key(
        "the least share of convolutions and matrix products that ONNX Runtime really runs in integers", 1.0, "95%"
    )


class LayerLimits(_Limits):
    """What a layer may cost (``layers``)."""

    macs: LayerMacs | None = _key("the most MACs of a layer", "5M", {"fail": "5M", "warn": "4.5M"})
    params: LayerParams | None = _key("the most parameters of a layer", "36k")
    growth: Growth | None = _key("the most that its MACs may grow against OTHER (check --against)", "5%", 0)


_SETTINGS: Final = ("baseline", "measure")


class BudgetFile(_Limits):
    """Limits that a model must keep. A limit is one value, or {fail: ..., warn: ...}."""

    macs: MacsLimit | None = _key(
        "the most multiply-accumulates of one image: an amount, or a ratio to the original", "60M", "50%", "0.5 GMACs"
    )
    params: ParamsLimit | None = _key("the most parameters: an amount, or a ratio to the original", "250k", "60%")
    size: SizeLimit | None = _key("the most bytes of the weights, or of a file: an amount or a ratio", "2 MB", "50%")
    latency: LatencyLimit | None = _key(
        "the most milliseconds of a call, as the median: an amount, or a ratio to the original", "3 ms", "60%"
    )
    device_latency: DeviceLatency | None = _key(
        "the most milliseconds of a call on the device, as the HIGH end of the median's interval that verify.py of a "
        "package measured there (check --measured)",
        "10 ms",
        {"fail": "10ms", "warn": "8ms"},
    )
    speedup: SpeedUp | None = _key(
        "the least of the LOW end of the speed-up's 95 % interval, so that a lucky median does not pass", 1.2, "1.2x"
    )
    accuracy: Accuracy | None = _key("the least accuracy on the test (or else the validation) images", "88%", 0.88)
    accuracy_drop: Drop | None = _key("the most points of accuracy lost against the original", "1%", 0.01)
    agreement: Agreement | None = _key(
        "the least share of test (or else validation) images on which slim model and original predict the same class",
        "90%",
        0.9,
    )
    parity: Parity | None = _key(
        "true: every artefact computes what PyTorch does; or the largest difference", True, 1e-4
    )
    own_checks: OwnChecks | None = _key(
        "true: all checks of the run's own verdict, with the limits of the recipe that it ran with",
        True,
        {"warn": True},
    )
    saliency_drift: DriftLimits | None = _key("how far explanations may have moved", {"center_px": 3, "iou": 0.5})
    int8: Int8Limits | None = _key(
        "what the run's INT8 file must keep", {"accuracy_drop": "0.5%", "speedup": {"fail": 2, "warn": 3}}
    )
    growth: Growth | None = _key("the most that MACs may grow against OTHER (check --against)", "2%", 0)
    layers: dict[str, LayerLimits] | None = Field(
        default=None,
        min_length=1,
        description="limits of single layers, by name; * stands for any characters, dots too",
        examples=[{"net.layer1.*": {"macs": "5M"}}],
    )
    baseline: str | None = Field(
        default=None,
        min_length=1,
        description="what ratios and speed-ups refer to: an ONNX or .pt2 file, or a run (its original), counted from "
        "this file's folder; both are then timed in turn, on this machine",
        examples=["../models/original.onnx"],
    )
    measure: LatencyConfig = Field(
        default=LatencyConfig(), description="how latency is measured where the target brings no times of its own"
    )

    @classmethod
    def limited(cls) -> tuple[str, ...]:
        return tuple(name for name in cls.model_fields if name not in _SETTINGS)

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetFile:
        if not self.model_fields_set - {*_SETTINGS}:
            raise ValueError(f"it limits nothing: give at least one of {', '.join(self.limited())}")
        return self


@dataclass(frozen=True)
class Budget:
    """The limits of a budget file, and the line of each key."""

    path: Path
    limits: BudgetFile
    lines: Mapping[Place, int]

    def line(self, *place: str) -> int | None:
        return line_of(self.lines, place)


def load_budget(path: Path) -> Budget:
    """Read the budget file at ``path`` (YAML).

    Raises:
        ConfigError: it cannot be read, or has mistakes: all of them in one message, each with its line and its key.
    """
    try:
        document = read_yaml(read_text(path, MOST_YAML))
    except FileNotFoundError:
        raise ConfigError(f"no budget file at {path}: check --budget") from None
    except OSError as error:
        raise ConfigError(f"cannot read the budget file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: it is not a text file in UTF-8 (byte {error.start})") from error
    except ConfigError as error:
        raise ConfigError(f"{path} is not YAML ({error}); write lines such as 'macs: 50%'") from error
    content = {} if document.value is None else document.value
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} is not a budget file: it holds {shown_value(content)}, not lines such as 'macs: 50%'"
        )
    problems = Problems()
    problems.set_lines(document.lines)
    for place, twice in document.repeated:
        problems.add(twice, place)
    _refuse_booleans(content.get("measure"), problems)
    limits = None
    try:
        limits = BudgetFile.model_validate({str(key): value for key, value in content.items()})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place, text = _allowed().explain(detail)
            problems.add(text, place)
    if limits is None or problems:
        raise ConfigError(f"{path} is not a usable budget file:{problems.listed()}")
    return Budget(path, limits, document.lines)


def _refuse_booleans(measure: object, problems: Problems) -> None:
    """pydantic reads true as the number 1."""
    allowed = _allowed()
    known = allowed.deref(allowed.schema["properties"]["measure"])["properties"]
    for key, value in measure.items() if isinstance(measure, dict) else ():
        if isinstance(value, bool) and key in known:
            problems.add(allowed.refusal(("measure", key), value, known[key]), ("measure", key))


@cache
def _allowed() -> Allowed:
    return Allowed(without_null(BudgetFile.model_json_schema()), "budget")
