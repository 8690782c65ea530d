"""Recipe section ``dynamic``: the input-dependent variant."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import BatchSize, Epochs, Fraction, Million, Positive, Section


class DynamicConfig(Section):
    """The input-dependent variant (``dynamic``): DRIB's channel selection within a budget of MACs."""

    enabled: bool = Field(default=False, description="true: learn, export and time it beside the slim model")
    macs: Fraction = Field(default=0.5, description="mean MACs per image kept, routing heads included")
    masks: Annotated[int, Field(ge=2, le=64)] = Field(
        default=4, description="to choose from, per layer; 40 in the paper: each is a branch of the exported graph"
    )
    align: Million = Field(
        default=1, description="channels of a mask in multiples of this, where the layer is wide enough"
    )
    epochs: Epochs = Field(default=4, description="in which masks and heads learn")
    mask_lr: Positive | None = Field(
        default=None, description="Adam, for the masks; null: 0.01, or more where steps are few"
    )
    head_lr: Positive = Field(default=0.01, description="Adam, for the heads")
    lr: Positive = Field(default=0.01, description="SGD, for the weights, in turn with the masks")
    temperature: tuple[Positive, Positive] = Field(
        default=(1.0, 0.1), description="of the choices, in spreads of the scores: first and last"
    )
    finetune_epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=4, description="of the weights, masks fixed"
    )
    finetune_lr: Positive = Field(default=0.05, description="SGD, the highest of a one-cycle schedule")
    dense_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="of the choices while weights are finetuned: what the bottleneck refuses runs dense"
    )
    batch_size: BatchSize = Field(default=128, description="images per step")
    route: Literal["out", "in_out"] = Field(
        default="in_out", description="in_out is faster, and its branches grow with masks x masks"
    )
    verify_images: Million = Field(default=50, description="images whose choices the information bottleneck judges")
