"""Recipe section ``explainer``: the amortized explainer and its predictor and selector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from .base import BatchSize, Epochs, Fraction, Images, NonNegative, Positive, Section


class MaskConfig(Section):
    """Random RBF masks that the predictor learns on, in pixels of a 32-pixel side (others scale with it)."""

    centre: tuple[NonNegative, NonNegative] = Field(default=(2.0, 30.0), description="of the masks, from and to")
    sigma: tuple[Positive, Positive] = Field(default=(5.0, 11.0), description="spread of the masks, from and to")
    temperature: Positive = Field(default=0.1, description="softness of the masks")


class PredictorConfig(Section):
    """q_pred: predicts the classifier's softmax from a masked image (ISP section 3)."""

    init: Literal["classifier", "scratch"] = Field(
        default="classifier", description="start from the classifier's weights, or from none"
    )
    epochs: Epochs = Field(default=3, description="times through the training images, at most")
    lr: Positive = Field(default=3e-4, description="Adam")
    weight_decay: NonNegative = Field(default=1e-4, description="Adam")
    batch_size: BatchSize = Field(default=128, description="images per step")
    patience: Epochs = Field(default=3, description="epochs without progress before it stops")


class RealXConfig(Section):
    """REAL-X (``gates.steer: realx``): what differs from ISP; its predictor and its selector learn as theirs say."""

    variant: Literal["relaxed", "original"] = Field(
        default="relaxed", description="ISP's, relaxed masks throughout; or the authors', hard masks and REBAR"
    )
    keep: Fraction = Field(default=0.5, description="chance of a pixel in the predictor's random masks")
    mask_temperature: Positive = Field(default=0.1, description="relaxed: of the predictor's random masks")
    rebar_temperature: Positive = Field(default=0.5, description="original: of the relaxation in REBAR")


class SelectorConfig(Section):
    """f_sel: image -> explanation (ISP Eq. 8)."""

    epochs: Epochs = Field(default=4, description="times through the training images, at most")
    lr: Positive = Field(default=1e-3, description="Adam")
    weight_decay: NonNegative = Field(default=1e-4, description="Adam")
    batch_size: BatchSize = Field(default=64, description="images per step")
    temperature: Positive = Field(default=1.0, description="of the relaxed samples of a mask")
    area_term: Literal["mean", "power"] = Field(
        "mean", description="R(m): expected L0, or (rbf only) the released code's mean((m + 5e-4)^0.3)"
    )
    area_weight: Positive = Field(default=1.0, description="lambda_1 to start from; it then follows target_area")
    smooth_weight: NonNegative = Field(default=1e-3, description="lambda_2 of S(m), rbf only")
    patience: Epochs = Field(default=3, description="epochs without progress before it stops")


class VarSalConfig(Section):
    """VarSal (``gates.steer: varsal``): a mean and a variance per pixel, under a soft-TV prior; has no predictor."""

    epochs: Epochs = Field(default=10, description="times through the training images, at most")
    lr: Positive = Field(default=1e-4, description="Adam")
    weight_decay: NonNegative = Field(default=5e-4, description="Adam")
    batch_size: BatchSize = Field(default=128, description="images per step")
    alpha: float = Field(default=0.4, ge=0, lt=0.55, description="correlation of neighbouring pixels in the prior")
    beta: NonNegative | None = Field(default=None, description="weight of the prior; null: 1 / (10 height width)")
    epsilon: Positive = Field(default=0.1, description="softness of top-k")
    kept: tuple[Fraction, Fraction] = Field(default=(0.1, 0.9), description="share of pixels kept, from and to")
    patience: Epochs = Field(default=3, description="epochs without progress before it stops")

    @field_validator("kept")
    @classmethod
    def _the_smaller_first(cls, kept: tuple[float, float]) -> tuple[float, float]:
        if not kept[0] <= kept[1] < 1:
            raise ValueError(f"[{kept[0]:g}, {kept[1]:g}] was given; allowed: two shares below 1, the smaller first")
        return kept


class ExplainerConfig(Section):
    """The amortized explainer (``explainer``): the one that steers the gates; ``rbf`` where none does."""

    enabled: bool = Field(default=True, description="false: no explainer, for models without feature maps")
    required: bool = Field(
        default=False,
        description="true: an explainer that explains nothing (it collapsed, or is no better than centred masks) ends "
        "the run; false: the run goes on without it, and says so",
    )
    target_area: Fraction = Field(default=0.25, description="share of the image that an explanation should keep")
    images: Images | None = Field(
        default=None,
        description="training images it learns on: how many, or a share of every class (10%); null: all",
    )
    masks: MaskConfig = MaskConfig()
    realx: RealXConfig = RealXConfig()
    varsal: VarSalConfig = VarSalConfig()
    predictor: PredictorConfig = PredictorConfig()
    selector: SelectorConfig = SelectorConfig()
