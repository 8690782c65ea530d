"""The recipe section ``export``: formats, operator set and tolerance."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from slimsight.compress.config import Positive, Section

Format = Literal["onnx", "pt2"]


class ExportConfig(Section):
    """Formats that the slim model is exported to, and the largest difference from the torch model that passes."""

    formats: tuple[Format, ...] = Field(
        default=("onnx", "pt2"), min_length=1, description="each is compared with PyTorch on real images"
    )
    opset: Annotated[int, Field(ge=18, le=22)] = Field(default=18, description="ONNX operator set")
    tolerance: Positive = Field(default=1e-4, description="largest difference of logits that passes")

    @field_validator("formats")
    @classmethod
    def _each_once(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        if len(set(formats)) < len(formats):
            raise ValueError(f"formats {', '.join(formats)}: name each of onnx, pt2 at most once")
        return formats
