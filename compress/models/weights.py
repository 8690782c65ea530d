"""Weights from a file into a classifier: safetensors or a state dict, under any of the usual names."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..files.atomic import read_tensors
from ..files.untrusted import printable
from .normalize import Classifier

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
# Where training scripts put the state dict; what DataParallel, torch.compile and others put before its names.
CONTAINERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
# What torch and zipfile raise on damaged files, whatever stands in them.
_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)
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
        tensors = read_tensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _read_torch(path)
    else:
        raise ModelError(f"weights file {path} ends in '{path.suffix}', not .safetensors, .pt or .pth; {_REMEDY}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"weights file {path} holds NaN or infinity in tensor '{printable(name)}'; its training diverged"
            )
    return tensors


def restore_(module: nn.Module, path: Path) -> None:
    """Copy the tensors that a run stored at ``path`` into the ``module`` that they are of, all of them.

    Raises:
        ModelError: the file is missing or damaged, or holds the tensors of another module; the first is named.
    """
    placed = read_tensors(path)
    expected = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    problems = list(_problems(placed, expected)) or [
        f"tensor '{name}' is missing from the file" for name in expected if name not in placed
    ]
    if problems:
        raise ModelError(
            f"weights {path} do not fit the model of its recipe: {problems[0]}; run 'slimsight run' again to make them"
        )
    module.load_state_dict(placed)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        _refuse_packed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights file {path} holds more than tensors (a whole pickled model?), or is damaged; "
            f"unpickling could run any code, so {_REMEDY}"
        ) from error
    except _DAMAGED as error:
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
                f"weights file {path} is not a state dict: '{printable(str(name))}' is {type(value).__name__}, not a "
                f"tensor; {_REMEDY}"
            )
        _refuse_more_than_stored(path, str(name), value)
    return {str(name): value for name, value in content.items()}


def _refuse_packed(path: Path) -> None:
    """torch stores its files without compression; one that is compressed may unpack to any size.

    Raises:
        zipfile.BadZipFile: ``path`` is such a file.
    """
    if not zipfile.is_zipfile(path):  # the format before torch 1.6
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts unpack to more than the file holds, which torch never writes")


def _refuse_more_than_stored(path: Path, name: str, tensor: Tensor) -> None:
    """A view may repeat one stored number a trillion times; a weight does not."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        what = f"shape {tuple(tensor.shape)} and fewer numbers than that" if plain else "a form that no weight has"
        raise ModelError(f"weights file {path} holds tensor '{printable(name)}' of {what}; {_REMEDY}")


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
        label = printable(name.removeprefix("net."))
        if name not in placed:
            if name not in ("normalize.mean", "normalize.std") and not name.endswith(".num_batches_tracked"):
                yield f"tensor '{label}' is missing from the file, the model expects it with shape {shape}"
        elif placed[name].shape != tensor.shape:
            yield f"tensor '{label}' has shape {tuple(placed[name].shape)}, the model expects {shape}"
    for name, tensor in placed.items():
        if name not in expected:
            label = printable(name.removeprefix("net."))
            yield f"the file has tensor '{label}' of shape {tuple(tensor.shape)}, the model has none"
