"""The head of a classifier: which tensors follow the number of classes, and a backbone's weights under a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import ModelError
from ..files.untrusted import printable
from .classifier import Classifier
from .libraries import pretrained_classes
from .weights import best_renaming, candidate_renamings, mismatches, read_weights
from .zoo import TORCHVISION, build_net, refuse_pretrained


class UnknownHeadError(ModelError):
    """No tensor of the network follows the number of classes."""


_TRIED = 10
"""Classes of the smaller of the two networks that are compared to find the head."""

_BACKBONE_PREFIXES = ("backbone.", "encoder.")
_COINCIDENCE = 0.1
"""Below this share of tensors that fit, the names and shapes agree by coincidence: it is another network."""

_NAMED = 3
_NORMALISATION = ("normalize.mean", "normalize.std")


@dataclass(frozen=True)
class Backbone:
    """Tensors under a new head: ``taken`` from the file, ``made`` anew, and those of the file that were ``left`` out.

    Names are those of the network, without those of the normalisation in front of it.
    """

    taken: tuple[str, ...]
    made: tuple[str, ...]
    left: tuple[str, ...]

    def in_words(self) -> str:
        """``312 tensors taken; made new: fc.weight, fc.bias; left out: head.weight``."""
        left = f"; left out: {_listed(self.left)}" if self.left else ""
        return f"{len(self.taken)} tensors taken; made new: {_listed(self.made)}{left}"


def head_tensors(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """Tensors of the network whose shape follows the number of classes: name -> (dimension, offset, slope).

    The size of that dimension is offset + slope * classes. Two networks are built and compared; torch's random state
    stays.

    Raises:
        UnknownHeadError: there is none: the network has the same number of logits whatever the classes.
    """
    plain = config.model_copy(update={"weights": None, "head": "given"})
    with torch.random.fork_rng(devices=[]):
        first, second = (build_net(plain, classes).state_dict() for classes in (_TRIED, _TRIED + 1))
    found: dict[str, tuple[int, int, int]] = {}
    for name, tensor in first.items():
        other = second.get(name)
        if other is None or other.shape == tensor.shape or other.dim() != tensor.dim():
            continue
        (dimension, *_) = (k for k in range(tensor.dim()) if tensor.shape[k] != other.shape[k])
        slope = other.shape[dimension] - tensor.shape[dimension]
        found[name] = (dimension, tensor.shape[dimension] - slope * _TRIED, slope)
    if not found:
        raise UnknownHeadError(
            f"model '{config.name}' has no layer whose size follows the number of classes, so its head cannot be told "
            "from its backbone: give its factory a parameter named classes"
        )
    return found


def classes_of_weights(config: ModelConfig) -> int | None:
    """The number of classes that the weights of ``config`` were trained for; None if they come without a head.

    Raises:
        ConfigError, ModelError: the model cannot be built, or the weights cannot be read.
    """
    if config.weights == "pretrained":
        if not config.name.startswith(TORCHVISION):
            refuse_pretrained(config)
        build_net(config.model_copy(update={"weights": None}), _TRIED)  # the name is checked first
        return pretrained_classes(config.name.removeprefix(TORCHVISION))
    assert isinstance(config.weights, Path), "weights are given"
    head = head_tensors(config)
    tensors = best_renaming(read_weights(config.weights), [f"net.{name}" for name in head])
    for name, (dimension, offset, slope) in head.items():
        tensor = tensors.get(f"net.{name}")
        if tensor is not None and tensor.dim() > dimension and (tensor.shape[dimension] - offset) % slope == 0:
            return (tensor.shape[dimension] - offset) // slope
    return None


def load_backbone_(model: Classifier, tensors: dict[str, Tensor], head: Mapping[str, object], source: str) -> Backbone:
    """Copy the tensors of a backbone into ``model``, all but its ``head``, which stays as it was made.

    The file may come without a head, with one of another size or under another name, and with parts beside the network
    (a projector); within the network every tensor must fit.

    Args:
        tensors: of the file (``read_weights``); head: names of ``head_tensors``; source: the file, for messages.

    Raises:
        ModelError: nothing fits, or not all; the first tensor that does not is named.
    """
    own = {f"net.{name}" for name in head}
    expected = {
        name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor) and name not in own
    }
    fitting = max(_renamings(tensors), key=lambda candidate: len(_fitting(candidate, expected)))
    taken = [name for name in _fitting(fitting, expected) if name not in _NORMALISATION]
    learned = [name for name in expected if name not in _NORMALISATION]
    if len(taken) < _COINCIDENCE * len(learned):
        raise ModelError(
            f"weights {source} hold {len(taken) or 'none'} of the {len(learned)} tensors of the model's backbone (the "
            f"file has {_listed([*tensors])}; the model expects {_listed([_short(name) for name in learned])}): choose "
            "the model that they were trained with"
        )
    parts = {name.split(".")[1] for name in (*expected, *own) if name.startswith("net.")}
    left = [name for name in fitting if name not in expected and _part(name) not in parts]
    beside = {*left, *own}
    problems = list(mismatches({name: t for name, t in fitting.items() if name not in beside}, expected))
    if problems:
        others = f" (and {len(problems) - 1} more that do not fit)" if len(problems) > 1 else ""
        raise ModelError(
            f"weights {source} are not those of this model's backbone: {len(taken)} of {len(learned)} tensors fit, but "
            f"{problems[0]}{others}; choose the model and shortcut that they were trained with"
        )
    model.load_state_dict({**model.state_dict(), **{name: fitting[name] for name in fitting if name in expected}})
    return Backbone(tuple(map(_short, taken)), tuple(map(_short, sorted(own))), tuple(map(_short, left)))


def _renamings(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """As for whole classifiers, and the parts of the file that name themselves a backbone."""
    yield from candidate_renamings(tensors)
    for prefix in _BACKBONE_PREFIXES:
        inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if inner:
            yield from candidate_renamings(inner)


def _fitting(candidate: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in candidate.items() if name in expected and expected[name].shape == tensor.shape]


def _part(name: str) -> str:
    """The first module of a tensor's name in the network; "" of a tensor beside the network."""
    return name.split(".")[1] if name.startswith("net.") and name.count(".") else ""


def _short(name: str) -> str:
    return name.removeprefix("net.")


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
