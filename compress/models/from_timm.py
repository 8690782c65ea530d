"""``timm:NAME``: a network of the timm library (an extra)."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..registry import nearest
from .user_code import UserCode


def build_from_timm(name: str, classes: int) -> nn.Module:
    """timm's network ``name`` (without the prefix) for ``classes`` classes, with random weights: nothing is downloaded.

    Raises:
        ConfigError: timm is not installed, or has no network of this name.
        ModelError: timm cannot build it.
    """
    timm = _import_timm(name)
    choices = timm.list_models()
    if name.partition(".")[0] not in choices:
        raise ConfigError(
            f"timm has no model '{name}'{nearest(name, choices)} (it has {len(choices)}; see timm.list_models())"
        )
    with UserCode(f"timm:{name} cannot be built"):
        net: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return net


def _import_timm(name: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"timm:{name} needs timm, an extra: pip install 'slimsight[timm]' (or: pip install timm)"
        ) from error
