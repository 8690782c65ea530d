"""Sections of a recipe that this package owns: frozen, validated on construction, nothing unknown allowed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from .amounts import BYTE_UNITS, COUNT_UNITS, TIME_UNITS, Amount, to_amount

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe. Frozen; unknown keys are errors. Paths are absolute once a recipe is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Where the images come from and how they are split (``data``)."""

    source: Literal["digits", "image_tree", "cifar10_batches", "image_folder"] = "digits"
    path: Path | None = Field(default=None, description="folder or .tar.xz; not used by digits")
    val_list: Path | None = Field(
        default=None, description="file with one path below train/ per line: the validation images"
    )
    val_fraction: Fraction = 0.1
    test_fraction: Fraction = Field(default=0.2, description="digits and image_folder without a test folder")
    image_size: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="side in pixels; image_folder needs it"
    )
    flip: bool = True
    crop_padding: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="after")
    def _has_what_the_source_needs(self) -> DataConfig:
        if self.source != "digits" and self.path is None:
            raise ValueError(f"source '{self.source}' needs 'path': the folder that holds the images")
        if self.source == "image_folder" and self.image_size is None:
            raise ValueError("source 'image_folder' needs 'image_size': the side in pixels, e.g. 224")
        return self


class TrainConfig(Section):
    """SGD with momentum and Nesterov, one-cycle rate: for a classifier without weights, and to finetune."""

    epochs: Count = 20
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 128


class ModelConfig(Section):
    """The classifier (``model``). Normalisation is its first layer: it takes raw images in [0, 1]."""

    name: str = Field(
        default="resnet20",
        description="resnet20..110, mobilenetv2, vgg16, torchvision:NAME, timm:NAME, file.py:factory",
    )
    shortcut: Literal["pad", "conv"] = "pad"
    weights: Path | Literal["pretrained"] | None = Field(
        None, description="safetensors or a state dict; null trains from scratch with `train`"
    )
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    train: TrainConfig = TrainConfig()


class MaskConfig(Section):
    """Random RBF masks that the predictor learns on, in pixels of a 32-pixel side (others scale with it)."""

    centre: tuple[NonNegative, NonNegative] = (2.0, 30.0)
    sigma: tuple[Positive, Positive] = (5.0, 11.0)
    temperature: Positive = 0.1


class PredictorConfig(Section):
    """q_pred: predicts the classifier's softmax from a masked image (ISP section 3)."""

    init: Literal["classifier", "scratch"] = "classifier"
    epochs: Count = 3
    lr: Positive = 3e-4
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 128
    patience: Count = 3


class SelectorConfig(Section):
    """f_sel: image -> RBF parameters (ISP Eq. 8)."""

    epochs: Count = 4
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 64
    temperature: Positive = 1.0
    area_term: Literal["mean", "power"] = Field(
        "mean", description="R(m): expected L0, or the released code's mean((m + 5e-4)^0.3)"
    )
    area_weight: Positive = Field(default=1.0, description="lambda_1 to start from; it then follows target_area")
    smooth_weight: NonNegative = Field(default=1e-3, description="lambda_2 of S(m)")
    patience: Count = 3


class ExplainerConfig(Section):
    """The amortized explainer that steers the gates (``explainer``)."""

    enabled: bool = Field(default=True, description="false: no explainer, for models without feature maps")
    target_area: Fraction = 0.25
    masks: MaskConfig = MaskConfig()
    predictor: PredictorConfig = PredictorConfig()
    selector: SelectorConfig = SelectorConfig()


class GatesConfig(Section):
    """How channels are ranked (``gates``). ISP Eq. 10: CE + g1 |C_x - f_sel|^2 + g2 R_res."""

    steer: Literal["rbf", "none", "magnitude", "uniform"] = Field(
        "rbf", description="rbf and none learn gates; magnitude and uniform rank by weights: baselines"
    )
    images: Count | None = Field(default=None, description="training images the gates see; null: all")
    steps: Annotated[int, Field(ge=20)] = 1000
    lr: Positive | None = Field(default=None, description="Adam; null scales with 1/steps so that gates can close")
    batch_size: Count = 128
    steer_weight: NonNegative = Field(default=0.05, description="g1, per squared pixel of a 32-pixel side")
    cost_weight: Positive = Field(default=2.0, description="g2 of R_res")
    temperature: Positive = 0.4
    shrink: Fraction = Field(default=0.6, description="share of the steps over which the target falls to the budget")
    compile: bool | Literal["auto"] = Field(
        default="auto", description="torch.compile the step; auto: on a CPU, when the steps saved are worth the wait"
    )


def _read_limit(what: str, units: Mapping[str, float], example: str) -> BeforeValidator:
    """Reads an amount below the original's."""

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


_WRITTEN = WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]})
_NUMBER = PlainSerializer(_write_number)
MacsLimit = Annotated[Amount, _read_limit("MACs", COUNT_UNITS, "20M, 500k, 4e9"), _NUMBER, _WRITTEN]
ParamsLimit = Annotated[Amount, _read_limit("parameters", COUNT_UNITS, "250k, 1.2M"), _NUMBER, _WRITTEN]
SizeLimit = Annotated[Amount, _read_limit("bytes", BYTE_UNITS, "2MB, 800kB, 2MiB"), _NUMBER, _WRITTEN]
LatencyLimit = Annotated[
    Amount, _read_limit("latency", TIME_UNITS, "3ms, 800us"), PlainSerializer(_write_time), _WRITTEN
]


class BudgetConfig(Section):
    """What the slim model may cost at most (``budget``): one limit or several, all of which hold; else half the MACs.

    Each is a ratio to the original (0.5 or 50%) or an amount. Latency is the median in the runtime, threads and batch
    of ``latency``.
    """

    macs: MacsLimit | None = Field(default=None, description="a ratio (0.5 or 50%) or a number of MACs (20M)")
    params: ParamsLimit | None = Field(default=None, description="a ratio (0.4 or 40%) or a number (1.2M)")
    size: SizeLimit | None = Field(default=None, description="of the tensors: a ratio or bytes (2MB)")
    latency: LatencyLimit | None = Field(default=None, description="measured: a ratio to the original's or 3ms")
    align: Count | Literal["auto"] = Field(
        default=1, description="channels kept in multiples of this, where a group is large enough; auto: by timing"
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
        return self

    @staticmethod
    def limited() -> tuple[str, ...]:
        """The resources that can be limited."""
        return ("macs", "params", "size", "latency")

    @property
    def limits(self) -> dict[str, Amount]:
        """The limits given, by resource."""
        return {name: getattr(self, name) for name in self.limited() if getattr(self, name) is not None}


class FinetuneConfig(TrainConfig):
    """After surgery: BN recalibration, then SGD, optionally with distillation from the original."""

    epochs: Annotated[int, Field(ge=0)] = 10
    lr: Positive = 0.05
    recalibrate_batches: Annotated[int, Field(ge=0)] = 50
    distill: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="share of the loss from the original")
    distill_temperature: Positive = 4.0


class DynamicConfig(Section):
    """The input-dependent variant (``dynamic``): DRIB's channel selection within a budget of MACs."""

    enabled: bool = Field(default=False, description="true: learn, export and time it beside the slim model")
    macs: Fraction = Field(default=0.5, description="mean MACs per image kept, routing heads included")
    masks: Annotated[int, Field(ge=2, le=64)] = Field(
        default=4, description="to choose from, per layer; 40 in the paper: each is a branch of the exported graph"
    )
    align: Count = Field(
        default=1, description="channels of a mask in multiples of this, where the layer is wide enough"
    )
    epochs: Count = 4
    mask_lr: Positive | None = Field(
        default=None, description="Adam, for the masks; null: 0.01, or more where steps are few"
    )
    head_lr: Positive = Field(default=0.01, description="Adam, for the heads")
    lr: Positive = Field(default=0.01, description="SGD, for the weights, in turn with the masks")
    temperature: tuple[Positive, Positive] = Field(
        default=(1.0, 0.1), description="of the choices, in spreads of the scores: first and last"
    )
    finetune_epochs: Annotated[int, Field(ge=0)] = 4
    finetune_lr: Positive = 0.05
    batch_size: Count = 128
    route: Literal["out", "in_out"] = Field(
        default="in_out", description="in_out is faster, and its branches grow with masks x masks"
    )
    verify_images: Count = Field(default=50, description="images whose choices the information bottleneck judges")
