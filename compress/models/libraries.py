"""Networks of libraries: ``torchvision:NAME`` and ``timm:NAME`` (an extra); nothing is downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import nearest
from .user_code import UserCode

# In training these also return auxiliary logits, of a thousand classes.
_WITH_AUX_LOGITS = ("googlenet", "inception_v3")


def build_from_torchvision(name: str, classes: int, *, pretrained: bool) -> nn.Module:
    """torchvision's classifier ``name`` (without the prefix), with a new last layer if it has other ``classes``.

    Pretrained weights are read from torch hub's cache.

    Raises:
        ConfigError: unknown name, or pretrained weights that are not in the cache.
        ModelError: cached weights that cannot be read.
    """
    from torchvision import models

    choices = models.list_models(module=models)
    if name not in choices:
        raise ConfigError(
            f"torchvision has no classifier '{name}'{nearest(name, choices)} "
            f"(it has {len(choices)}, e.g. resnet18, mobilenet_v2; see torchvision.models.list_models())"
        )
    options = _options(name)
    if not pretrained:
        if options:
            options["init_weights"] = True
        net: nn.Module = models.get_model(name, weights=None, **options)
    else:
        net = _pretrained(name)
    replace_head_(net, classes)
    return net


def pretrained_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of torchvision's pretrained network ``name``, with its own head, from torch hub's cache.

    Raises:
        ConfigError: they are not in the cache.
        ModelError: cached weights that cannot be read.
    """
    return dict(_pretrained(name).state_dict())


def pretrained_classes(name: str) -> int:
    """The number of classes that torchvision's weights of network ``name`` were trained for."""
    from torchvision import models

    return len(models.get_model_weights(name).DEFAULT.meta["categories"])


def _pretrained(name: str) -> nn.Module:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if not cached.is_file():
        raise ConfigError(
            f"the pretrained weights of torchvision:{name} are not in torch hub's cache ({cached}), and "
            "nothing is downloaded for you; give `weights` a file, or fetch them once: "
            f"python -c \"from torchvision.models import get_model as g; g('{name}', weights='DEFAULT')\""
        )
    with UserCode(f"cached weights {cached} cannot be used; delete the file and fetch it again"):
        net: nn.Module = models.get_model(name, weights=weights, **_options(name))
    return net


def _options(name: str) -> dict[str, Any]:
    return {"aux_logits": False} if name in _WITH_AUX_LOGITS else {}


def build_from_timm(name: str, classes: int) -> nn.Module:
    """timm's network ``name`` (without the prefix) for ``classes`` classes, with random weights.

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


def timm_normalisation(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation, per channel in [0, 1], that timm trained its own weights of ``name`` with."""
    _import_timm(name)
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    (red, green, blue), (r, g, b) = config.mean, config.std
    return (float(red), float(green), float(blue)), (float(r), float(g), float(b))


def replace_head_(net: nn.Module, classes: int) -> None:
    """Replace the last linear layer (or 1x1 convolution, without a linear one) by one with ``classes`` outputs.

    "Last" by order of definition. A layer that already has ``classes`` outputs is kept.

    Raises:
        ConfigError: the network has neither.
    """
    layers = list(net.named_modules())
    linear: list[tuple[str, nn.Linear | nn.Conv2d]] = [(k, m) for k, m in layers if isinstance(m, nn.Linear)]
    pointwise = [(k, m) for k, m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    heads = linear or pointwise
    if not heads:
        raise ConfigError(
            f"{type(net).__name__} has no linear layer to replace for {classes} classes; "
            "use path/to/file.py:factory to build it with the right number of outputs"
        )
    name, old = heads[-1]
    if isinstance(old, nn.Linear):
        if old.out_features != classes:
            net.set_submodule(name, nn.Linear(old.in_features, classes, bias=old.bias is not None))
    elif old.out_channels != classes:
        net.set_submodule(name, nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None))


def _import_timm(name: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"timm:{name} needs timm, an extra: pip install 'slimsight[timm]' (or: pip install timm)"
        ) from error
