"""The recipe section ``export``: formats, precisions, operator set, tolerance, and how INT8 files are made."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from slimsight.compress.config import BatchSize, Positive, Section
from slimsight.compress.config.shares import AccuracyDrop, LeastAgreement

from .onnx_files.quantised import Form, Method, WeightScales

Format = Literal["onnx", "pt2"]
FilePrecision = Literal["fp32", "int8"]

_T = TypeVar("_T", bound=str)

LEAST_IMAGES = 32
"""Fewer calibration images do not show the ranges of a network's values."""

DEFAULT_IMAGES = 256
MOST_FLOAT_LAYERS = 8
CONTROL_IMAGES = 512
MOST_EPOCHS = 1000


class AccuracyControlConfig(Section):
    """Layers that stay in FP32 where the slim model's INT8 file misses a limit; without a limit there is none.

    Layers are chosen on training images that INT8 is not calibrated on. The run's verdict holds the file to the same
    limits on validation images.
    """

    agreement: LeastAgreement | None = Field(
        default=None,
        description="the least share of images on which the INT8 file predicts the class that its FP32 file predicts",
        examples=["97%", 0.97],
    )
    accuracy_drop: AccuracyDrop | None = Field(
        default=None,
        description="the most points of accuracy that the INT8 file loses against its FP32 file",
        examples=["0.5%", 0.005],
    )
    sqnr_db: Annotated[float, Field(gt=0, le=100)] | None = Field(
        default=None, description="the least signal to quantisation noise of the logits, dB", examples=[20]
    )
    max_float_layers: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=MOST_FLOAT_LAYERS, description="the most convolutions and matrix products that stay in FP32"
    )
    images: Annotated[int, Field(ge=LEAST_IMAGES, le=100_000)] = Field(
        default=CONTROL_IMAGES,
        description="training images that layers are chosen on, none of int8.images; agreement and accuracy are taken "
        "on the quarter of them that FP32 is least sure of",
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        found = {"agreement": self.agreement, "accuracy_drop": self.accuracy_drop, "sqnr_db": self.sqnr_db}
        return {name: value for name, value in found.items() if value is not None}


class QatConfig(Section):
    """Quantisation-aware training of the slim model's INT8 file, from its calibrated ranges; 0 epochs: none.

    With ``accuracy_control`` it trains only where the calibrated file misses a limit, and before a layer stays in FP32.
    The best epoch on validation images is kept, and the calibrated file where no epoch is better.
    """

    epochs: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] = Field(
        default=0, description="times through the training images, each longer than one of finetune; 0: no training"
    )
    lr: Positive = Field(
        default=5e-5, description="the highest of a one-cycle schedule, of AdamW; scales change ten times as fast"
    )
    batch_size: BatchSize = Field(default=32, description="images per step")
    distill: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="share of the loss from the FP32 file; the rest is from the labels"
    )
    distill_temperature: Positive = Field(default=4.0, description="of both softmaxes in distillation")
    mixup: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="images are mixed in pairs by shares of Beta(mixup, mixup); 0: not mixed"
    )


class Int8Config(Section):
    """How INT8 files are made (``precision`` with int8). Ranges of values are measured on training images."""

    images: Annotated[int, Field(ge=LEAST_IMAGES, le=100_000)] = Field(
        default=DEFAULT_IMAGES, description="training images that ranges are measured on, spread over all of them"
    )
    method: Method = Field(
        default="minmax", description="how ranges are chosen: extremes, least KL divergence, or 99.999 % of the values"
    )
    weights: WeightScales = Field(
        default="per_channel",
        description="what one scale of weights is for; per_tensor: for runtimes that know no other, less accurate",
    )
    forms: tuple[Form, ...] = Field(
        default=("u8",),
        min_length=1,
        description="u8 (model.int8.onnx): for ONNX Runtime; s8 (model.int8.trt.onnx): for TensorRT",
    )
    accuracy_control: AccuracyControlConfig = AccuracyControlConfig()
    qat: QatConfig = QatConfig()

    @field_validator("forms")
    @classmethod
    def _each_once(cls, forms: tuple[Form, ...]) -> tuple[Form, ...]:
        return _distinct(forms, "forms", "u8, s8")


class ExportConfig(Section):
    """Formats that the slim model is exported to, and the largest difference from the torch model that passes."""

    formats: tuple[Format, ...] = Field(
        default=("onnx", "pt2"), min_length=1, description="each is compared with PyTorch on real images"
    )
    precision: tuple[FilePrecision, ...] = Field(
        default=("fp32",),
        min_length=1,
        description="of ONNX files; int8 writes slim/model.int8.onnx from the FP32 file, and proves and times it",
    )
    opset: Annotated[int, Field(ge=18, le=22)] = Field(default=18, description="ONNX operator set")
    tolerance: Positive = Field(default=1e-4, description="largest difference of logits that passes")
    int8: Int8Config = Int8Config()

    @field_validator("formats")
    @classmethod
    def _each_once(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        return _distinct(formats, "formats", "onnx, pt2")

    @field_validator("precision")
    @classmethod
    def _with_fp32(cls, precision: tuple[FilePrecision, ...]) -> tuple[FilePrecision, ...]:
        if "fp32" not in precision:
            raise ValueError(
                f"precision {', '.join(precision)}: the INT8 file is made from the FP32 one; give [fp32, int8]"
            )
        return _distinct(precision, "precision", "fp32, int8")

    @model_validator(mode="after")
    def _int8_is_onnx(self) -> ExportConfig:
        if self.quantised and "onnx" not in self.formats:
            raise ValueError(
                f"precision has int8 and formats are {', '.join(self.formats)}: INT8 files are ONNX files; add onnx to "
                "formats, or take int8 out"
            )
        return self

    @property
    def quantised(self) -> bool:
        """Whether INT8 files are asked for."""
        return "int8" in self.precision


def _distinct(given: tuple[_T, ...], name: str, allowed: str) -> tuple[_T, ...]:
    if len(set(given)) < len(given):
        raise ValueError(f"{name} {', '.join(given)}: name each of {allowed} at most once")
    return given
