"""Model zoo: builds the classifier that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from ..config import ModelConfig
from ..errors import ConfigError
from ..registry import Registry
from .adopt import adopt, unwrap
from .cifar import DEPTHS, VGG16, MobileNetV2, ResNet, Shortcut
from .classifier import Classifier
from .libraries import build_from_timm, build_from_torchvision
from .user_code import build_from_file, is_file_name
from .weights import load_weights

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


def build_classifier(config: ModelConfig, classes: int) -> Classifier:
    """The classifier of ``config``, in train mode on the CPU, with its weights if it names any.

    ``adopt`` makes the network ours.

    Without weights it is initialised from torch's global random state.

    Raises:
        ConfigError: an unknown name, or pretrained weights that are not in the cache.
        ModelError: a user's factory fails, weights do not fit, or the network cannot be ours (``adopt``).
    """
    model = Classifier(build_net(config, classes), config.mean, config.std)
    if isinstance(config.weights, Path):
        load_weights(model, config.weights)
    adopted = adopt(model.net)
    model.net, model.changes = adopted.model, adopted.changes
    return model


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
        _refuse_pretrained(config)
        return build_from_timm(config.name.removeprefix(TIMM), classes)
    if is_file_name(config.name):
        _refuse_pretrained(config)
        return unwrap(build_from_file(config.name, classes))
    try:
        network = NETWORKS.get(config.name)
    except ConfigError as error:
        raise ConfigError(f"{error}; torchvision:NAME, timm:NAME and path/to/file.py:factory work too") from None
    _refuse_pretrained(config)
    return network(classes, config.shortcut)


def _refuse_pretrained(config: ModelConfig) -> None:
    if config.weights == "pretrained":
        raise ConfigError(
            f"model '{config.name}' has no pretrained weights (only torchvision:NAME does); "
            "give `weights` a .safetensors or .pth file, or leave it out to train from scratch"
        )
