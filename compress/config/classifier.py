"""Recipe sections ``data``, ``model`` and ``finetune``: images, classifier, and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..amounts import MOST_SIDE
from .base import BatchSize, Epochs, Fraction, NonNegative, Positive, Section, Share, Side

ADAMW = {"lr": 6e-4, "weight_decay": 0.01}
"""Defaults of a training by AdamW."""

ON_BACKBONE = {"optimizer": "adamw", "epochs": 8, "batch_size": 32}
"""Defaults of ``model.train`` where a backbone is trained under a new head."""

AreaShare = Annotated[float, Field(gt=0, le=1)]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class DataConfig(Section):
    """Where the images come from and how they are split (``data``)."""

    source: Literal["digits", "image_tree", "cifar10_batches", "image_folder"] = Field(
        default="digits",
        description="digits (embedded), image_tree (train/<class>/*.jpg and test/<class>/*.jpg), cifar10_batches "
        "(torchvision's files), image_folder (<class>/*.jpg, or train/val/test)",
    )
    labels: Literal["folders", "none"] = Field(
        default="folders",
        description="folders: class folders or batches say what an image shows; none: image_folder takes all images "
        "below data.path, in folders or not, and what the original predicts takes the place of labels: gates learn "
        "from and finetuning distils its softmax, and agreement with it is measured, no accuracy",
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
    image_size: Side | None = Field(default=None, description="side in pixels; image_folder needs it")
    flip: bool = Field(default=True, description="training images may be mirrored")
    crop_padding: Annotated[int, Field(ge=0, le=MOST_SIDE)] = Field(
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
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        default=None, description="on_the_fly: processes that decode; null: as many as cores, up to 8; 0: none"
    )
    resize: Side | None = Field(
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
        "(ImageNet: [0.08, 1]); null: shifts of crop_padding",
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
        if self.labels == "none":
            self._check_unlabelled()
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

    def _check_unlabelled(self) -> None:
        """Raise ValueError for settings that are about labels."""
        if self.source != "image_folder":
            raise ValueError(f"labels: none takes a folder of images: choose source image_folder, not {self.source}")
        for name in ("val_list", "classes", "test_labels"):
            if getattr(self, name) is not None:
                raise ValueError(f"labels is none and '{name}' is given, which is about class folders: leave one out")
        if self.val_is_test:
            raise ValueError("labels is none and val_is_test is true, which is about split folders: leave one out")


class TrainConfig(Section):
    """Training without weights, on a backbone's (``head: new``), and to finetune; the rate follows one cycle."""

    epochs: Epochs = Field(default=20, description="times through the training images; 8 on a backbone (head: new)")
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd with momentum and Nesterov, or adamw; adamw on a backbone (head: new)"
    )
    lr: Positive = Field(
        default=0.1, description="the highest of a one-cycle schedule; with adamw 0.0006 where it is not given"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="of sgd, with Nesterov")
    weight_decay: NonNegative = Field(
        default=1e-4, description="of all but biases and normalisations; with adamw 0.01 where it is not given"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="share of the target that is spread over all classes"
    )
    mixup: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0,
        description="images and their labels are mixed in pairs by shares of Beta(mixup, mixup); 0: not mixed",
    )
    batch_size: BatchSize = Field(default=128, description="images per step; 32 on a backbone (head: new)")

    @model_validator(mode="before")
    @classmethod
    def _follow_the_optimizer(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("optimizer") == "adamw":
            return {**ADAMW, **values}
        return values


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
    head: Literal["given", "new"] = Field(
        default="given",
        description="given: the weights hold the last layer, too; new: they are a backbone's, of other classes or "
        "without a last layer: it is made for the classes of the data, and all is trained with `train`",
    )
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="subtracted from images in [0, 1], channel by channel"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        default=(0.229, 0.224, 0.225), description="what they are divided by then"
    )
    files: tuple[Path, ...] = Field(
        default=(),
        description="files that the code of file.py:factory reads in other ways than Python's open (cv2.imread, "
        "sqlite3, another process): where one changes, the run starts anew, as with all that Python opens",
    )
    train: TrainConfig = TrainConfig()

    @model_validator(mode="before")
    @classmethod
    def _train_a_backbone_as_one(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("head") != "new":
            return values
        train = values.get("train", {})
        return {**values, "train": {**ON_BACKBONE, **train}} if isinstance(train, dict) else values

    @model_validator(mode="after")
    def _has_a_backbone(self) -> ModelConfig:
        if self.head == "new" and self.weights is None:
            raise ValueError(
                "head is new and weights is null: give weights the backbone's file (or pretrained), or leave head out "
                "to train from scratch"
            )
        return self

    @property
    def trained(self) -> bool:
        """Whether a run trains the classifier, before it slims it."""
        return self.weights is None or self.head == "new"


class FinetuneConfig(TrainConfig):
    """After surgery: BN recalibration, training, optionally with distillation from the original, BN recalibration."""

    epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(default=10, description="times through the training images")
    lr: Positive = Field(
        default=0.05, description="the highest of a one-cycle schedule; with adamw 0.0006 where it is not given"
    )
    recalibrate_batches: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=50,
        description="batches whose statistics BatchNorm takes before finetuning, and after it if they validate better",
    )
    distill: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="share of the loss from the original; 1 with data.labels none, which has no other loss"
    )
    distill_temperature: Positive = Field(default=4.0, description="of both softmaxes in distillation")
    steer_weight: NonNegative = Field(
        default=0.0, description="of the interpretation term while weights change, as gates.steer_weight; 0: none"
    )

    @model_validator(mode="after")
    def _explain_whole_images(self) -> Self:
        if self.steer_weight and self.mixup:
            raise ValueError(
                f"mixup {self.mixup:g} with steer_weight {self.steer_weight:g}: a mixed image has no explanation to "
                "keep; set one of them to 0"
            )
        return self
