"""Builds the classifier that a recipe names, with its weights: those of the whole classifier, or of its backbone."""

from __future__ import annotations

from pathlib import Path

import torch

from ..config import ModelConfig
from ..errors import ConfigError
from .adopt import adopt
from .checks import check_logits
from .classifier import Classifier
from .head import Backbone, UnknownHeadError, classes_of_weights, head_tensors, load_backbone_
from .libraries import pretrained_classes, pretrained_tensors
from .weights import load_weights, read_weights
from .zoo import TORCHVISION, build_net, refuse_pretrained

_ANY = 10
"""Classes asked of a network that has a number of its own."""


def build_classifier(config: ModelConfig, classes: int) -> Classifier:
    """The classifier of ``config``, in train mode on the CPU, with its weights if it names any.

    What no weights are given for is initialised from torch's global random state; ``adopt`` makes the network ours.

    Raises:
        ConfigError: an unknown name, or pretrained weights that are not in the cache or of other classes.
        ModelError: a user's factory fails, weights do not fit, or the network cannot be ours (``adopt``).
    """
    return build_with_backbone(config, classes)[0]


def build_with_backbone(config: ModelConfig, classes: int) -> tuple[Classifier, Backbone | None]:
    """As ``build_classifier``, and which tensors the weights gave; None unless the head is new."""
    backbone = None
    if config.weights is not None and config.head == "new":
        model, backbone = _on_backbone(config, classes)
    else:
        _check_pretrained_classes(config, classes)
        model = Classifier(build_net(config, classes), config.mean, config.std)
        if isinstance(config.weights, Path):
            load_weights(model, config.weights)
    adopted = adopt(model.net)
    model.net, model.changes = adopted.model, (*model.changes, *adopted.changes)
    return model, backbone


def classes_known(config: ModelConfig, side: int) -> int | None:
    """The number of classes that the weights of ``config`` know; None if they come without a head.

    Of a network with a fixed number of logits it is that number.

    Args:
        side: of the images that the network takes, pixels.
    """
    try:
        return classes_of_weights(config)
    except UnknownHeadError:
        plain = config.model_copy(update={"weights": None, "head": "given"})
        return check_logits(build_classifier(plain, _ANY), torch.zeros(2, 3, side, side))


def _on_backbone(config: ModelConfig, classes: int) -> tuple[Classifier, Backbone]:
    model = Classifier(build_net(config.model_copy(update={"weights": None}), classes), config.mean, config.std)
    head = head_tensors(config)
    if isinstance(config.weights, Path):
        return model, load_backbone_(model, read_weights(config.weights), head, str(config.weights))
    if not config.name.startswith(TORCHVISION):
        refuse_pretrained(config)
    tensors = pretrained_tensors(config.name.removeprefix(TORCHVISION))
    return model, load_backbone_(model, tensors, head, f"'{config.weights}'")


def _check_pretrained_classes(config: ModelConfig, classes: int) -> None:
    """Raise ConfigError where pretrained weights have a head of another size: it would be drawn, and never trained."""
    if config.weights != "pretrained" or not config.name.startswith(TORCHVISION):
        return
    build_net(config.model_copy(update={"weights": None}), classes)  # the name is checked first
    trained = pretrained_classes(config.name.removeprefix(TORCHVISION))
    if trained != classes:
        raise ConfigError(
            f"the pretrained weights of {config.name} are of {trained:,} classes and the data has {classes:,}: set "
            "model.head to new, which trains a new last layer on these weights"
        )
