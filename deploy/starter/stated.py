"""What a model says of its own preprocessing: timm's ``pretrained_cfg``, torchvision's ``Weights.transforms()``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from slimsight.compress.config import Interpolation
from slimsight.compress.data import Preprocessing
from slimsight.compress.data.preprocessing import RESAMPLING
from slimsight.compress.files.untrusted import printable
from slimsight.compress.models.zoo import TORCHVISION

Triple = tuple[float, float, float]

_LEAST_SIDE = 8


@dataclass(frozen=True)
class Stated:
    """What a model states; None: it does not say, or what it says cannot be done (``notes`` say why).

    ``by``: who says it.
    """

    by: str
    mean: Triple | None = None
    std: Triple | None = None
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()


def stated_by(net: nn.Module, name: str) -> Stated | None:
    """What ``net``, the recipe's model ``name``, says of its preprocessing; None: nothing. Nothing is downloaded.

    A network of a user's file counts where it, or one network in it, carries timm's ``pretrained_cfg``.
    """
    if name.startswith(TORCHVISION):
        return _stated_by_torchvision(name.removeprefix(TORCHVISION))
    found = [(type(module).__name__, config) for module in net.modules() if (config := _timm_config(module))]
    if not found:
        return None
    owner, first = found[0]
    if any(_settings(config) != _settings(first) for _, config in found[1:]):
        return Stated(
            "timm's pretrained_cfg", notes=(f"its {len(found)} networks carry timm's pretrained_cfg, and these differ",)
        )
    return _stated_by_timm(first, owner)


def _stated_by_torchvision(name: str) -> Stated | None:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    crop, resize = (_one_side(getattr(transforms, key, None)) for key in ("crop_size", "resize_size"))
    mean, std = (_triple(getattr(transforms, key, None)) for key in ("mean", "std"))
    filtering = getattr(getattr(transforms, "interpolation", None), "value", None)
    by = f"torchvision's {weights}.transforms()"
    if crop is None or resize is None or filtering not in RESAMPLING:
        return Stated(by, mean, std, None, ("its sizes or its interpolation are none that a recipe can have",))
    return Stated(by, mean, std, Preprocessing(crop, max(crop, resize), cast(Interpolation, filtering)))


_SETTINGS = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")


def _timm_config(module: nn.Module) -> Mapping[str, Any] | None:
    """The ``pretrained_cfg`` of a timm network (``default_cfg`` in old ones), if it says anything here."""
    for key in ("pretrained_cfg", "default_cfg"):
        config = getattr(module, key, None)
        if not isinstance(config, Mapping) and callable(to_dict := getattr(config, "to_dict", None)):
            config = to_dict()
        if isinstance(config, Mapping) and any(config.get(name) is not None for name in _SETTINGS):
            return config
    return None


def _settings(config: Mapping[str, Any]) -> list[str]:
    return [repr(config.get(name)) for name in _SETTINGS]


def _stated_by_timm(config: Mapping[str, Any], owner: str) -> Stated:
    architecture = config.get("architecture") or owner
    tag = config.get("tag")
    by = f"timm's pretrained_cfg of {printable(f'{architecture}.{tag}' if tag else str(architecture), 100)}"
    notes: list[str] = []
    mean, std = _triple(config.get("mean")), _triple(config.get("std"))
    if mean is None or std is None or min(std) <= 0:
        notes.append(f"its mean {_short(config.get('mean'))} and std {_short(config.get('std'))} are not three numbers")
        mean = std = None
    return Stated(by, mean, std, _timm_preprocessing(config, notes), tuple(notes))


def _timm_preprocessing(config: Mapping[str, Any], notes: list[str]) -> Preprocessing | None:
    """As timm's ``create_transform`` evaluates; why not goes to ``notes``."""
    size, share = config.get("input_size"), config.get("crop_pct")
    side = _one_side(size[1:]) if isinstance(size, Sequence) and len(size) == 3 and size[0] == 3 else None
    if side is None:
        notes.append(f"its input_size {_short(size)} is no square of three channels")
        return None
    if not isinstance(share, int | float) or not 0 < share <= 1:
        notes.append(f"its crop_pct {_short(share)} is not above 0 and at most 1")
        return None
    mode, filtering = config.get("crop_mode") or "center", config.get("interpolation") or "bilinear"
    if mode not in ("center", "squash"):
        notes.append(f"its crop_mode {_short(mode)} is none of a recipe's (those are center and squash)")
        return None
    if filtering not in RESAMPLING:
        notes.append(f"its interpolation {_short(filtering)} is none of a recipe's ({', '.join(RESAMPLING)})")
        return None
    return Preprocessing(side, math.floor(side / share), filtering, stretch=mode == "squash")


def _one_side(sizes: Any) -> int | None:
    """The side of ``[224]`` or ``[224, 224]``."""
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or len(set(sizes)) != 1:
        return None
    return sizes[0] if isinstance(sizes[0], int) and sizes[0] >= _LEAST_SIDE else None


def _triple(values: Any) -> Triple | None:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 3:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    first, second, third = (float(value) for value in values)
    return first, second, third


def _short(value: Any) -> str:
    return printable(repr(value), 60)
