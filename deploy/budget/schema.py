"""The keys of a budget file."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from slimsight.compress.amounts import Amount
from slimsight.compress.config import Section

from ..latency_config import LatencyConfig
from . import amounts as read
from .limit import Levels, Limit

Amounts: TypeAlias = Limit[Amount]
Numbers: TypeAlias = Limit[float]

MacsLimit: TypeAlias = Annotated[Amounts, Levels(read.read_macs, read.MACS, bound="max")]
ParamsLimit: TypeAlias = Annotated[Amounts, Levels(read.read_params, read.PARAMS, bound="max")]
SizeLimit: TypeAlias = Annotated[Amounts, Levels(read.read_size, read.SIZE, bound="max")]
LatencyLimit: TypeAlias = Annotated[Amounts, Levels(read.read_latency, read.LATENCY, bound="max")]
LayerMacs: TypeAlias = Annotated[Amounts, Levels(read.read_layer_macs, read.LAYER_MACS, bound="max")]
LayerParams: TypeAlias = Annotated[Amounts, Levels(read.read_layer_params, read.LAYER_PARAMS, bound="max")]
Accuracy: TypeAlias = Annotated[Numbers, Levels(read.read_accuracy, read.SHARE, bound="min")]
Drop: TypeAlias = Annotated[Numbers, Levels(read.read_drop, read.SHARE, bound="max")]
Growth: TypeAlias = Annotated[Numbers, Levels(read.read_growth, read.SHARE, bound="max")]
SpeedUp: TypeAlias = Annotated[Numbers, Levels(read.read_speedup, read.SPEEDUP, bound="min")]
Parity: TypeAlias = Annotated[Limit[Literal[True] | float], Levels(read.read_parity, read.PARITY, bound="max")]
Pixels: TypeAlias = Annotated[Numbers, Levels(read.read_pixels, read.PIXELS, bound="max")]
Overlap: TypeAlias = Annotated[Numbers, Levels(read.read_overlap, read.SHARE, bound="min")]
RegionOverlap: TypeAlias = Annotated[Numbers, Levels(read.read_region_overlap, read.SHARE, bound="min")]
Moved: TypeAlias = Annotated[Numbers, Levels(read.read_moved, read.SHARE, bound="max")]
Lost: TypeAlias = Annotated[Numbers, Levels(read.read_lost, read.SHARE, bound="max")]


def _key(description: str, *examples: Any) -> Any:
    return Field(default=None, description=description, examples=list(examples))


class _Limits(Section):
    """Keys of which one at least is given."""

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
    region_iou: RegionOverlap | None = _key("the least overlap of the regions with half of a map's mass", 0.5)
    moved: Moved | None = _key("the largest share of images whose top region went elsewhere", "10%")
    lost: Lost | None = _key("the largest share of images without an explanation in one of the models; default 0", "1%")


class LayerLimits(_Limits):
    """What a layer may cost (``layers``)."""

    macs: LayerMacs | None = _key("the most MACs of a layer", "5M", {"fail": "5M", "warn": "4.5M"})
    params: LayerParams | None = _key("the most parameters of a layer", "36k")
    growth: Growth | None = _key("the most that its MACs may grow against OTHER (check --against)", "5%", 0)


_SETTINGS: Final = ("baseline", "measure")


class BudgetFile(_Limits):
    """What a model is held to. A limit is one value, or {fail: ..., warn: ...}."""

    macs: MacsLimit | None = _key(
        "the most multiply-accumulates of one image: an amount, or a ratio to the original", "60M", "50%", "0.5 GMACs"
    )
    params: ParamsLimit | None = _key("the most parameters: an amount, or a ratio to the original", "250k", "60%")
    size: SizeLimit | None = _key("the most bytes of the weights, or of a file: an amount or a ratio", "2 MB", "50%")
    latency: LatencyLimit | None = _key(
        "the most milliseconds of a call, as the median: an amount, or a ratio to the original", "3 ms", "60%"
    )
    speedup: SpeedUp | None = _key(
        "the least of the LOW end of the speed-up's 95 % interval, so that a lucky median does not pass", 1.2, "1.2x"
    )
    accuracy: Accuracy | None = _key("the least accuracy on the test (or else the validation) images", "88%", 0.88)
    accuracy_drop: Drop | None = _key("the most points of accuracy lost against the original", "1%", 0.01)
    parity: Parity | None = _key(
        "true: every artefact computes what PyTorch does; or the largest difference", True, 1e-4
    )
    saliency_drift: DriftLimits | None = _key("how far explanations may have moved", {"center_px": 3, "iou": 0.5})
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
