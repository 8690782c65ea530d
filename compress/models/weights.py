"""Weights from a file into a classifier: safetensors or a state dict, under any of the usual names."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ModelError
from ..files import read_tensors
from .normalize import Classifier

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
# Where training scripts put the state dict; what DataParallel, torch.compile and others put before its names.
CONTAINERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_REMEDY = "save the weights alone, with safetensors.torch.save_file or torch.save(model.state_dict(), ...)"


def load_weights(model: Classifier, path: Path) -> None:
    """Copy the tensors of ``path`` into ``model``, converted to its dtypes, all or none.

    Names may be the network's own, or start with ``net.``, ``module.`` and the like; a file that also holds
    ``normalize.mean`` and ``normalize.std`` sets them. ``num_batches_tracked`` may be missing.

    Raises:
        ModelError: no such file, no weights in it, or weights of another network; the message names the first
            tensor that does not fit.
    """
    found = read_weights(path)
    expected = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    placed = max(_views(found), key=lambda view: len(view.keys() & expected.keys()))
    problems = list(_problems(placed, expected))
    if problems:
        others = len(problems) - 1
        more = f" (and {others} other tensor{'s do' if others > 1 else ' does'} not fit)" if others else ""
        raise ModelError(
            f"weights {path} do not fit the model: {problems[0]}{more}; "
            "choose the model, shortcut and classes that they were trained with"
        )
    model.load_state_dict({**model.state_dict(), **placed})


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file with a state dict, on the CPU. Unpickles no code.

    Raises:
        ModelError: missing, unreadable, more than a state dict, or not finite.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"weights file {path} {what}; give a .safetensors file or a state dict (.pt, .pth)")
    if path.suffix == ".safetensors":
        try:
            tensors = read_tensors(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"weights file {path} is no readable safetensors file: {error}") from error
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _read_torch(path)
    else:
        raise ModelError(f"weights file {path} ends in '{path.suffix}', not .safetensors, .pt or .pth; {_REMEDY}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"weights file {path} holds NaN or infinity in tensor '{name}'; its training diverged")
    return tensors


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights file {path} holds more than tensors (a whole pickled model?), or is damaged; "
            f"unpickling could run any code, so {_REMEDY}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"weights file {path} is damaged, or no torch file ({reason}); {_REMEDY}") from error
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"weights file {path} holds {type(content).__name__}, not a state dict; {_REMEDY}")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"weights file {path} is not a state dict: '{name}' is {type(value).__name__}, not a tensor; {_REMEDY}"
            )
    return {str(name): value for name, value in content.items()}


def _views(found: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Readings of the file's names as the classifier's: as is, below ``net.``, without a common prefix."""
    yield found
    yield {f"net.{name}": tensor for name, tensor in found.items()}
    for prefix in PREFIXES:
        if found and all(name.startswith(prefix) for name in found):
            yield from _views({name.removeprefix(prefix): tensor for name, tensor in found.items()})


def _problems(placed: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """One clause for each tensor that does not fit, in the model's order, then what the file has besides."""
    for name, tensor in expected.items():
        shape = tuple(tensor.shape)
        label = name.removeprefix("net.")
        if name not in placed:
            if name not in ("normalize.mean", "normalize.std") and not name.endswith(".num_batches_tracked"):
                yield f"tensor '{label}' is missing from the file, the model expects it with shape {shape}"
        elif placed[name].shape != tensor.shape:
            yield f"tensor '{label}' has shape {tuple(placed[name].shape)}, the model expects {shape}"
    for name, tensor in placed.items():
        if name not in expected:
            label = name.removeprefix("net.")
            yield f"the file has tensor '{label}' of shape {tuple(tensor.shape)}, the model has none"
