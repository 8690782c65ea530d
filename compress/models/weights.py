"""Loading weights into a classifier from safetensors or a state dict, with the usual prefixes of names."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..files.atomic import read_tensors
from ..files.untrusted import printable
from ..modules import load_tensors_, tensors_of
from .classifier import Classifier

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
# Keys under which training scripts store the state dict, those of averaged weights last: the first one is taken.
CONTAINERS = (
    "state_dict", "model", "model_state_dict", "net", "weights",
    "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict",
)  # fmt: skip
BESIDE = ("n_averaged", "total_ops", "total_params")
"""Last parts of names that AveragedModel and thop add, which are no weights."""
# Errors that torch and zipfile raise on damaged files.
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
_NAMED = 3
_REMEDY = "save only the weights, with safetensors.torch.save_file or torch.save(model.state_dict(), ...)"


def load_weights(model: Classifier, path: Path) -> frozenset[str]:
    """Copy the tensors of ``path`` into ``model``, converted to its dtypes; all or none.

    Names may have prefixes (``net.``, ``module.``, ``backbone.``), also where other tensors stand beside the network's
    (a loss with weights); ``normalize.mean`` and ``normalize.std`` are loaded if present. ``num_batches_tracked`` may
    be missing. What was left out, and which of several state dicts was taken, is added to ``model.changes``. Returns
    the names of the model's tensors that were in the file.

    Raises:
        ModelError: no such file, no weights in it, or weights of another network; the message names the first
            tensor that does not fit.
    """
    expected = tensors_of(model)
    content = read_content(path)
    loaded = best_renaming(content.tensors, expected)
    problems = list(mismatches(loaded, expected))
    if problems:
        others = len(problems) - 1
        more = f" (and {others} other tensor{'s do' if others > 1 else ' does'} not fit)" if others else ""
        raise ModelError(
            f"weights {path} do not fit the model: {problems[0]}{more}; "
            "choose the model, shortcut and classes that they were trained with"
        )
    model.load_state_dict({**model.state_dict(), **loaded})
    held = {id(tensor) for tensor in loaded.values()}
    left = [printable(name) for name, tensor in content.tensors.items() if id(tensor) not in held]
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        content.notes.append(f"weights {path}: left out, beside the network: {', '.join(left[:_NAMED])}{more}")
    model.changes = (*model.changes, *content.notes)
    return frozenset(loaded)


@dataclass(frozen=True)
class FileContent:
    """The tensors of a weights file, and sentences on what of it was taken."""

    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of ``read_content``."""
    return read_content(path).tensors


def read_content(path: Path) -> FileContent:
    """The tensors of a safetensors file or a torch state dict, on the CPU; pickled code is never run.

    Raises:
        ModelError: missing, unreadable, more than a state dict, or not finite.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"weights file {path} {what}; give a .safetensors file or a state dict (.pt, .pth)")
    if path.suffix == ".safetensors":
        content = FileContent(read_tensors(path))
    elif path.suffix in TORCH_SUFFIXES:
        content = _read_torch(path)
    else:
        raise ModelError(f"weights file {path} ends in '{path.suffix}', not .safetensors, .pt or .pth; {_REMEDY}")
    for name, tensor in content.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"weights file {path} holds NaN or infinity in tensor '{printable(name)}'; its training diverged"
            )
    return content


def restore_(module: nn.Module, path: Path) -> None:
    """Load all tensors that a run stored at ``path`` into ``module``.

    Raises:
        ModelError: the file is missing or damaged, or its tensors are not those of ``module``; the first is named.
    """
    loaded = read_tensors(path)
    expected = tensors_of(module)
    problems = list(mismatches(loaded, expected)) or [
        f"tensor '{name}' is missing from the file" for name in expected if name not in loaded
    ]
    if problems:
        raise ModelError(
            f"weights {path} do not fit the model of its recipe: {problems[0]}; run 'slimsight run' again to make them"
        )
    load_tensors_(module, loaded)


def _read_torch(path: Path) -> FileContent:
    try:
        _refuse_compressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights file {path} holds more than tensors (a pickled model?), or is damaged; "
            f"unpickling could run any code, so {_REMEDY}"
        ) from error
    except _DAMAGED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"weights file {path} is damaged, or not a torch file ({reason}); {_REMEDY}") from error
    content, notes = _state_dict_in(content, path)
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"weights file {path} holds {type(content).__name__}, not a state dict; {_REMEDY}")
    kept: dict[str, Tensor] = {}
    for name, value in content.items():
        if str(name).rpartition(".")[2] in BESIDE:
            continue
        if not isinstance(value, Tensor):
            raise ModelError(
                f"weights file {path} is not a state dict: '{printable(str(name))}' is {type(value).__name__}, not a "
                f"tensor; {_REMEDY}"
            )
        _refuse_expanded_view(path, str(name), value)
        kept[str(name)] = value
    return FileContent(kept, notes)


def _state_dict_in(content: Any, path: Path) -> tuple[Any, list[str]]:
    """The state dict in what a training script stored, and which of several it is."""
    notes: list[str] = []
    while isinstance(content, Mapping):
        held = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
        if not held:
            break
        if len(held) > 1:
            others = ", ".join(f"'{name}'" for name in held[1:])
            notes.append(f"weights {path}: those of '{held[0]}' were taken, not {others}")
        content = content[held[0]]
    return content, notes


def _refuse_compressed(path: Path) -> None:
    """Raise zipfile.BadZipFile for a compressed file: torch never compresses, and it might expand to any size."""
    if not zipfile.is_zipfile(path):  # the format before torch 1.6
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts unpack to more than the file holds, which torch never writes")


def _refuse_expanded_view(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ModelError for a tensor larger than its storage: a view may repeat one number a trillion times."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        what = f"shape {tuple(tensor.shape)}, but fewer stored numbers" if plain else "an unsupported layout or device"
        raise ModelError(f"weights file {path} holds tensor '{printable(name)}' of {what}; {_REMEDY}")


def best_renaming(tensors: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """The mapping of a file's names to the classifier's under which most of ``expected`` are there."""
    return max(candidate_renamings(tensors), key=lambda candidate: sum(name in candidate for name in expected))


def candidate_renamings(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Possible mappings of a file's names to the classifier's: as is, below ``net.``, without a prefix.

    A prefix is the first part of the names of at least half of the tensors; those without it are then left out.
    """
    yield tensors
    yield {f"net.{name}": tensor for name, tensor in tensors.items()}
    firsts = Counter(name.partition(".")[0] for name in tensors if "." in name)
    for first, count in firsts.items():
        if 2 * count >= len(tensors):
            inner = {name.removeprefix(f"{first}."): t for name, t in tensors.items() if name.startswith(f"{first}.")}
            yield from candidate_renamings(inner)


def mismatches(loaded: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """One clause for each tensor that does not fit, in the model's order, then for those that only the file has."""
    for name, tensor in expected.items():
        shape = tuple(tensor.shape)
        label = printable(name.removeprefix("net."))
        if name not in loaded:
            if name not in ("normalize.mean", "normalize.std") and not name.endswith(".num_batches_tracked"):
                yield f"tensor '{label}' is missing from the file, the model expects it with shape {shape}"
        elif loaded[name].shape != tensor.shape:
            yield f"tensor '{label}' has shape {tuple(loaded[name].shape)}, the model expects {shape}"
    for name, tensor in loaded.items():
        if name not in expected:
            label = printable(name.removeprefix("net."))
            yield f"the file has tensor '{label}' of shape {tuple(tensor.shape)}, the model has none"
