"""Model zoo: builds the network that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from ..config import ModelConfig
from ..errors import ConfigError
from ..registry import Registry
from .adopt import unwrap
from .cifar import DEPTHS, VGG16, MobileNetV2, ResNet, Shortcut
from .libraries import build_from_timm, build_from_torchvision
from .user_code import build_from_file, is_file_name

TORCHVISION, TIMM = "torchvision:", "timm:"

# Factories (classes, shortcut) -> network; only ResNets use the shortcut.
NETWORKS: Registry[Callable[[int, Shortcut], nn.Module]] = Registry("model")


@NETWORKS.add("mobilenetv2")
def _mobilenetv2(classes: int, _shortcut: Shortcut) -> nn.Module:
    return MobileNetV2(classes)


@NETWORKS.add("vgg16")
def _vgg16(classes: int, _shortcut: Shortcut) -> nn.Module:
    return VGG16(classes)


for _depth in DEPTHS:
    NETWORKS.add(f"resnet{_depth}")(partial(ResNet, _depth))


def build_net(config: ModelConfig, classes: int) -> nn.Module:
    """The network of ``config.name``, without normalisation and without weights from a file.

    Raises:
        ConfigError: an unknown name, or pretrained weights that are not in the cache.
        ModelError: a user's factory fails.
    """
    pretrained = config.weights == "pretrained"
    if config.name.startswith(TORCHVISION):
        return build_from_torchvision(config.name.removeprefix(TORCHVISION), classes, pretrained=pretrained)
    if config.name.startswith(TIMM):
        refuse_pretrained(config)
        return build_from_timm(config.name.removeprefix(TIMM), classes)
    if is_file_name(config.name):
        refuse_pretrained(config)
        return unwrap(build_from_file(config.name, classes))
    try:
        network = NETWORKS.get(config.name)
    except ConfigError as error:
        raise ConfigError(f"{error}; torchvision:NAME, timm:NAME and path/to/file.py:factory work too") from None
    refuse_pretrained(config)
    return network(classes, config.shortcut)


def refuse_pretrained(config: ModelConfig) -> None:
    """Raise ConfigError if a recipe asks for pretrained weights of a network that has none."""
    if config.weights == "pretrained":
        raise ConfigError(
            f"model '{config.name}' has no pretrained weights (only torchvision:NAME does); "
            "give `weights` a .safetensors or .pth file, or leave it out to train from scratch"
        )
