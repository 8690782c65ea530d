"""One file for a tree of tensors and plain values: safetensors with the tree as JSON in its header, and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Damaged
from ..files import atomic_path

_TREE, _SUM = "tree", "sha256"


def write_packed(path: Path, value: Any) -> int:
    """Write ``value``, whole or not at all: tensors, numbers, strings, None, and mappings, lists and tuples of them.

    Returns:
        Its size in bytes.

    Raises:
        TypeError: there is something else in it; it is named.
        RunError: the disk is full or the place is not writable.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(value, "", tensors, {}))
    found = save(tensors, metadata={_TREE: tree, _SUM: _digest(tree, tensors)})
    with atomic_path(path) as part:
        part.write_bytes(found)
    return len(found)


def read_packed(path: Path) -> Any:
    """What ``write_packed`` wrote, on the CPU: every tensor bit for bit and in its memory format.

    Raises:
        Damaged: the file is not what was written.
        FileNotFoundError: there is none.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = file.keys()  # it is no mapping
            tensors = {name: file.get_tensor(name) for name in names}
        tree = header[_TREE]
        if header[_SUM] != _digest(tree, tensors):
            raise Damaged(path, "was changed since it was written: its checksum does not fit")
        return _unpack(json.loads(tree), tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Damaged(path, f"is cut off or was changed since it was written ({error})") from error


def _pack(value: Any, where: str, tensors: dict[str, Tensor], known: dict[tuple[Any, ...], str]) -> Any:
    """``value`` as JSON; its tensors go to ``tensors``, one that is there twice only once."""
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
        if value.numel() == 0 or key not in known:
            known[key] = where
            # In the order of its memory: sums of tensors in different orders may round differently.
            kept = torch.empty_like(value, device="cpu").copy_(value.detach())
            tensors[where] = kept.contiguous()
            return {"tensor": where, "stride": kept.stride()}
        return {"tensor": known[key], "stride": torch.empty_like(value, device="meta").stride()}
    if isinstance(value, Mapping):
        return {"map": [[key, _pack(item, f"{where}/{key}", tensors, known)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{where}/{index}", tensors, known) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where.strip('/')} is a {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        found = tensors[value["tensor"]]
        return torch.empty_strided(found.shape, value["stride"], dtype=found.dtype).copy_(found)
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {key: _unpack(item, tensors) for key, item in value["map"]}


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tree and over name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
