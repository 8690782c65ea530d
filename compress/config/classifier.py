"""Recipe sections ``data``, ``model`` and ``finetune``: images, classifier, and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Count, Fraction, NonNegative, Positive, Section, Share

AreaShare = Annotated[float, Field(gt=0, le=1)]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class DataConfig(Section):
    """Where the images come from and how they are split (``data``)."""

    source: Literal["digits", "image_tree", "cifar10_batches", "image_folder"] = Field(
        default="digits",
        description="digits (embedded), image_tree (train/<class>/*.jpg and test/<class>/*.jpg), cifar10_batches "
        "(torchvision's files), image_folder (<class>/*.jpg, or train/val/test)",
    )
    path: Path | None = Field(default=None, description="folder or .tar.xz; not used by digits")
    val_list: Path | None = Field(
        default=None, description="file with one path below train/ per line: the validation images"
    )
    val_fraction: Fraction = Field(
        default=0.1, description="share of the training images held out for validation, where no folder validates"
    )
    test_fraction: Fraction = Field(
        default=0.2, description="digits and image_folder without a folder of test or validation images"
    )
    val_is_test: bool = Field(
        default=False,
        description="train/ and val/ without test/: true makes val/ the test set (ImageNet's habit) and holds "
        "validation images out of train/; false: val/ validates, and nothing is tested",
    )
    image_size: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="side in pixels; image_folder needs it"
    )
    flip: bool = Field(default=True, description="training images may be mirrored")
    crop_padding: Annotated[int, Field(ge=0)] = Field(
        default=4, description="training images are shifted by up to this many pixels"
    )
    subset: Share | None = Field(
        default=None, description="share of every class (10%) that is trained on, drawn by the seed; null: all"
    )
    classes: Path | None = Field(
        default=None, description="file with one class folder per line: the classes that are used; null: all"
    )
    skip: Path | None = Field(
        default=None, description="file with one path below data.path per line: images that are left out"
    )
    test_labels: Path | None = Field(
        default=None,
        description="image_folder: file with 'file class' per line, for a val/ (or test/) folder without class folders",
    )
    decode: Literal["once", "on_the_fly"] = Field(
        default="once",
        description="once: into a cache of bytes at image_size; on_the_fly: by worker processes whenever images are "
        "read, for folders whose cache would not fit (ImageNet: 193 GB)",
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="on_the_fly: processes that decode; null: as many as cores, up to 8; 0: none"
    )
    resize: Annotated[int, Field(ge=8)] | None = Field(
        default=None,
        description="pixels that the short side is scaled to before the centre square of image_size is cut out "
        "(ImageNet: 256 for 224); null: image_size",
    )
    interpolation: Interpolation = Field(
        default="bilinear", description="how images are scaled; PIL's filters, antialiased (all but nearest)"
    )
    stretch: bool = Field(
        default=False,
        description="true: both sides are scaled to resize, whatever the aspect ratio (torchvision's Resize((n, n)), "
        "timm's squash); false: the short side is, and what the centre square leaves over is cut off",
    )
    crop_scale: tuple[AreaShare, AreaShare] | None = Field(
        default=None,
        description="training images are random windows of this share of the area, from and to, scaled to image_size "
        "(ImageNet: [0.08, 1]; photographs of a few thousand: [0.35, 1]); null: shifts of crop_padding",
    )

    @model_validator(mode="after")
    def _has_what_the_source_needs(self) -> DataConfig:
        if self.source != "digits" and self.path is None:
            raise ValueError(f"source '{self.source}' needs 'path': the folder that holds the images")
        if self.source == "image_folder" and self.image_size is None:
            raise ValueError("source 'image_folder' needs 'image_size': the side in pixels, e.g. 224")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> DataConfig:
        folders = ("image_folder", "image_tree")
        for name in ("classes", "skip"):
            if getattr(self, name) is not None and self.source not in folders:
                raise ValueError(f"'{name}' is for folders of images: choose source {' or '.join(folders)}")
        if self.test_labels is not None and self.source != "image_folder":
            raise ValueError("'test_labels' is for source image_folder")
        if self.val_is_test and self.source not in folders:
            raise ValueError(f"'val_is_test' is for folders of images: choose source {' or '.join(folders)}")
        if self.crop_scale is not None and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale {list(self.crop_scale)}: the smaller share comes first")
        self._check_preprocessing()
        if self.decode == "once":
            return self
        if self.source not in folders:
            raise ValueError(f"decode: on_the_fly reads folders of images: choose source {' or '.join(folders)}")
        if self.image_size is None:
            raise ValueError("decode: on_the_fly needs 'image_size': the side in pixels, e.g. 224")
        return self

    def _check_preprocessing(self) -> None:
        changed = [
            n for n in ("resize", "interpolation", "stretch") if getattr(self, n) != type(self).model_fields[n].default
        ]
        if changed and self.image_size is None:
            raise ValueError(
                f"'{changed[0]}' needs 'image_size', the side in pixels of the square that images become, e.g. 224; "
                "without it they are taken as they are"
            )
        if self.image_size is not None and self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"resize {self.resize} is below image_size {self.image_size}: the centre would not fit; give resize at "
                f"least {self.image_size}, or leave it out"
            )


class TrainConfig(Section):
    """SGD with momentum and Nesterov, one-cycle rate: for a classifier without weights, and to finetune."""

    epochs: Count = Field(default=20, description="times through the training images")
    lr: Positive = Field(default=0.1, description="SGD, the highest of a one-cycle schedule")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="SGD with Nesterov")
    weight_decay: NonNegative = Field(default=1e-4, description="SGD")
    batch_size: Count = Field(default=128, description="images per step")


class ModelConfig(Section):
    """The classifier (``model``). Normalisation is its first layer: it takes raw images in [0, 1]."""

    name: str = Field(
        default="resnet20",
        description="resnet20..110, mobilenetv2, vgg16, torchvision:NAME, timm:NAME, file.py:factory",
        examples=["resnet20", "torchvision:resnet18", "timm:resnet18", "my_model.py:build"],
    )
    shortcut: Literal["pad", "conv"] = Field(
        default="pad", description="where the width of a CIFAR ResNet changes: zero channels, or 1x1 convolutions"
    )
    weights: Path | Literal["pretrained"] | None = Field(
        None, description="safetensors or a state dict; null trains from scratch with `train`"
    )
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="subtracted from images in [0, 1], channel by channel"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        default=(0.229, 0.224, 0.225), description="what they are divided by then"
    )
    train: TrainConfig = TrainConfig()


class FinetuneConfig(TrainConfig):
    """After surgery: BN recalibration, SGD, optionally with distillation from the original, BN recalibration."""

    epochs: Annotated[int, Field(ge=0)] = Field(default=10, description="times through the training images")
    lr: Positive = Field(default=0.05, description="SGD, the highest of a one-cycle schedule")
    recalibrate_batches: Annotated[int, Field(ge=0)] = Field(
        default=50,
        description="batches whose statistics BatchNorm takes before finetuning, and after it if they validate better",
    )
    distill: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="share of the loss from the original")
    distill_temperature: Positive = Field(default=4.0, description="of both softmaxes in distillation")
    steer_weight: NonNegative = Field(
        default=0.0, description="of the interpretation term while weights change, as gates.steer_weight; 0: none"
    )
