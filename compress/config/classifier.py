"""Images, classifier, and how classifiers are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Count, Fraction, NonNegative, Positive, Section


class DataConfig(Section):
    """Where the images come from and how they are split (``data``)."""

    source: Literal["digits", "image_tree", "cifar10_batches", "image_folder"] = "digits"
    path: Path | None = Field(default=None, description="folder or .tar.xz; not used by digits")
    val_list: Path | None = Field(
        default=None, description="file with one path below train/ per line: the validation images"
    )
    val_fraction: Fraction = Field(default=0.1, description="of every class, held out where nothing else says it")
    test_fraction: Fraction = Field(default=0.2, description="digits and image_folder without a test folder")
    image_size: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="side in pixels; image_folder needs it"
    )
    flip: bool = Field(default=True, description="mirror training images at random; not for digits or letters")
    crop_padding: Annotated[int, Field(ge=0)] = Field(
        default=4, description="pixels around training images, cropped at random; 0: none"
    )

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
    lr: Positive = Field(default=0.1, description="the highest of the one-cycle schedule")
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 128


class ModelConfig(Section):
    """The classifier (``model``). Normalisation is its first layer: it takes raw images in [0, 1]."""

    name: str = Field(
        default="resnet20",
        description="resnet20..110, mobilenetv2, vgg16, torchvision:NAME, timm:NAME, file.py:factory",
    )
    shortcut: Literal["pad", "conv"] = Field(
        default="pad", description="of our ResNets where widths change; with conv the residual stream can shrink too"
    )
    weights: Path | Literal["pretrained"] | None = Field(
        None, description="safetensors or a state dict; null trains from scratch with `train`"
    )
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="of the normalisation that the weights were trained with"
    )
    std: tuple[Positive, Positive, Positive] = Field(default=(0.229, 0.224, 0.225), description="as mean")
    train: TrainConfig = TrainConfig()


class FinetuneConfig(TrainConfig):
    """After surgery: BN recalibration, then SGD, optionally with distillation from the original."""

    epochs: Annotated[int, Field(ge=0)] = 10
    lr: Positive = 0.05
    recalibrate_batches: Annotated[int, Field(ge=0)] = Field(
        default=50, description="batches that batch-norm statistics are taken anew from, before finetuning"
    )
    distill: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="share of the loss from the original")
    distill_temperature: Positive = Field(default=4.0, description="of both models' logits")
    steer_weight: NonNegative = Field(
        default=0.0, description="of the interpretation term while weights change, as gates.steer_weight; 0: none"
    )
