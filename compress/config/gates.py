"""Recipe section ``gates``: how channels are ranked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import BatchSize, Fraction, Images, NonNegative, Positive, Section

Steer = Literal[
    "rbf", "realx", "varsal", "none", "magnitude", "uniform", "taylor", "fpgm", "bn_scale", "lamp", "random"
]

EXPLAINERS = ("rbf", "realx", "varsal")
"""The values of ``gates.steer`` that are explainers."""

RANKINGS = ("magnitude", "uniform", "taylor", "fpgm", "bn_scale", "lamp", "random")
"""The values of ``gates.steer`` that learn no gates."""


class GatesConfig(Section):
    """How channels are ranked (``gates``). ISP Eq. 10: CE + g1 |C_x - f_sel|^2 + g2 R_res; CE may have a weight too."""

    steer: Steer = Field(
        "rbf",
        description="rbf (ISP), realx (REAL-X) and varsal (VarSal) steer by their explanations, none learns without; "
        "magnitude and uniform rank by weights; taylor (by gradients), fpgm, bn_scale, lamp and random are "
        "Torch-Pruning's importances",
    )
    scope: Literal["all", "inner", "auto"] = Field(
        default="all",
        description="channels that may go. inner: those inside of blocks, while residual streams (what blocks add to) "
        "stay whole; auto: inner where that reaches the budget with room to choose, else all",
    )
    images: Images | None = Field(
        default=None,
        description="training images the gates see: how many, or a share of every class (10%); null: all",
    )
    steps: Annotated[int, Field(ge=20, le=10_000_000)] = Field(
        default=1000, description="batches that the gates learn on"
    )
    lr: Positive | None = Field(default=None, description="Adam; null scales with 1/steps so that gates can close")
    batch_size: BatchSize = Field(default=128, description="images per step")
    class_weight: NonNegative = Field(
        default=1.0,
        description="of cross entropy, or with data.labels none of KL(original || gated); 0 leaves it out, for gates "
        "that steer",
    )
    steer_weight: NonNegative = Field(
        default=0.05, description="g1, per squared pixel of a 32-pixel side; others than rbf are scaled to ask the same"
    )
    cost_weight: Positive = Field(default=2.0, description="g2 of R_res")
    temperature: Positive = Field(default=0.4, description="of the sampled gates")
    shrink: Fraction = Field(default=0.6, description="share of the steps over which the target falls to the budget")
    norm: Literal["eval", "batch", "recalibrated"] = Field(
        default="eval",
        description="statistics of batch normalisation while gates close: eval: those of the original; batch: those of "
        "each batch; recalibrated: running ones, taken anew as the gates move",
    )
    compile: bool | Literal["auto"] = Field(
        default="auto", description="torch.compile the step; auto: on a CPU, when the steps saved are worth the wait"
    )

    @model_validator(mode="after")
    def _has_a_term_that_ranks_channels(self) -> GatesConfig:
        if self.learned and self.class_weight == 0 and (self.explainer is None or self.steer_weight == 0):
            raise ValueError(
                f"class_weight is 0 and {'steer_weight is 0 too' if self.explainer else 'steer is none'}: nothing is "
                f"left but the cost, which ranks no channel; give class_weight above 0, or steer "
                f"({', '.join(EXPLAINERS)}) with steer_weight above 0"
            )
        return self

    @property
    def learned(self) -> bool:
        """Whether gates are learned: not so by rankings, which only read weights or their gradients."""
        return self.steer not in RANKINGS

    @property
    def explainer(self) -> str | None:
        """The explainer that steers, by name; None: the gates are not steered."""
        return self.steer if self.steer in EXPLAINERS else None
