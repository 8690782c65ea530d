"""One file for a tree of tensors and plain values: safetensors with the tree as JSON in its header, and a checksum."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import Damaged
from ..files.atomic import atomic_path
from ..progress import SILENT, Progress, Stop

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


FORMAT = 1
"""Raised when a checkpoint of before would be misread."""

SHARE = 0.02
"""Saving may take this share of the time since the last save."""

LEAST_SECONDS = 10.0
"""Between two saves, however fast they are: what a kill costs at most where saving is cheap."""

_BYTES_A_SECOND = 3e7
"""How fast the first save is expected to be: on a disk that syncs and is busy. Later ones know."""


class Stateful(Protocol):
    """What a checkpoint can keep: modules, optimizers and schedules are, and so is whatever steers a loop.

    A state holds tensors, numbers, strings, None, and mappings, lists and tuples of them.
    """

    def state_dict(self) -> Mapping[str, Any]:
        """Everything that decides what comes next."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Be as it was."""
        ...


class Checkpoints:
    """Those of one stage, a file per training in it.

    Args:
        folder: theirs alone.
        key: says what is computed: a checkpoint with another key is of something else, and never resumed.
        seconds: between two saves, at least; 0: after every step, whatever it costs.
        stop: a wish to stop, heeded by every training.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        seconds: float = LEAST_SECONDS,
        stop: Stop | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.folder, self.key, self.seconds = folder, key, seconds
        self.stop = stop or Stop()
        self.progress = progress
        self.saves: list[float] = []
        """Seconds of every save."""
        self._earlier = 0.0
        self._started = time.monotonic()
        self._names: set[str] = set()

    def of(self, what: str, parts: Mapping[str, Stateful]) -> Checkpoint:
        """The checkpoint of the training called ``what``, unique within the stage; ``parts`` are what it keeps."""
        assert what not in self._names, f"a stage has two trainings called {what}"
        self._names.add(what)
        name = "".join(letter if letter.isalnum() else "-" for letter in what).strip("-")
        return SavedCheckpoint(self, what, self.folder / f"{name}.safetensors", parts)

    @property
    def elapsed(self) -> float:
        """Seconds that what there is has taken: since the stage began here, and before in what was resumed."""
        return self._earlier + time.monotonic() - self._started

    def resumed(self, elapsed: float) -> None:
        """A checkpoint that had taken so many seconds was resumed just now."""
        self._earlier = max(self._earlier, elapsed - (time.monotonic() - self._started))

    def remove(self) -> None:
        """Leave nothing: the stage is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Checkpoint:
    """What a training goes on from and saves to; this one: nothing, never."""

    step = 0
    """How many steps are in what was saved last."""

    @property
    def due(self) -> bool:
        """Whether to save now."""
        return False

    def load_(self) -> int:
        """Put all parts back to where they were saved; the number of steps that are done."""
        return 0

    def save(self, step: int) -> None:
        """Keep all parts as they are after ``step`` steps."""

    @contextmanager
    def heeding_stop(self) -> Iterator[None]:
        """Within the block ``due`` is looked at after every step."""
        yield


class SavedCheckpoint(Checkpoint):
    """A file. Made by ``Checkpoints.of``."""

    def __init__(self, owner: Checkpoints, what: str, path: Path, parts: Mapping[str, Stateful]) -> None:
        self.path = path
        self._owner, self._what, self._parts = owner, what, parts
        self._saved_at = time.monotonic()
        self._cost: float | None = None
        self._possible = True

    def load_(self) -> int:
        """See ``Checkpoint``; a damaged file is named in a note, and the training starts from its beginning."""
        try:
            found = read_packed(self.path)
        except FileNotFoundError:
            return 0
        except Damaged as error:
            self._owner.progress.note(f"{self._what}: starts over, its checkpoint is damaged: {error}")
            return 0
        known = found["format"] == FORMAT and found["parts"].keys() == self._parts.keys()
        if not known or found["key"] != self._owner.key:
            return 0
        for name, part in self._parts.items():
            part.load_state_dict(found["parts"][name])
        self._owner.resumed(found["elapsed"])
        self._saved_at = time.monotonic()
        self.step = int(found["step"])
        return self.step

    @property
    def due(self) -> bool:
        if self._owner.stop.wanted:
            return True
        pause, least = time.monotonic() - self._saved_at, self._owner.seconds
        if not self._possible or pause < least:
            return False
        if self._cost is None:  # not before: an optimizer has no state until it steps
            self._cost = _size(self._parts) / _BYTES_A_SECOND
        return least == 0 or pause >= self._cost / SHARE

    def save(self, step: int) -> None:
        """See ``Checkpoint``.

        Raises:
            KeyboardInterrupt: someone wants to stop.
            RunError: the disk is full or the place is not writable.
        """
        if self._possible:
            self._write(step)
        if self._owner.stop.wanted:
            self._owner.progress.note(f"{self._what}: stopped after step {step:,}")
            raise KeyboardInterrupt

    def _write(self, step: int) -> None:
        owner, started = self._owner, time.monotonic()
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        state = {"format": FORMAT, "key": owner.key, "step": step, "elapsed": owner.elapsed, "parts": parts}
        try:
            write_packed(self.path, state)
        except TypeError as error:  # a user's module may keep anything in its state
            self._possible = False
            owner.progress.note(f"{self._what}: would start over if it were interrupted; not to be saved: {error}")
            return
        self.step, self._saved_at = step, time.monotonic()
        self._cost = self._saved_at - started
        owner.saves.append(self._cost)

    @contextmanager
    def heeding_stop(self) -> Iterator[None]:
        self._owner.stop.heeded = True
        try:
            yield
        finally:
            self._owner.stop.heeded = False


def _size(parts: Mapping[str, Stateful]) -> int:
    """Bytes of all tensors in the parts' states."""

    def of(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.nbytes
        if isinstance(value, Mapping):
            return sum(map(of, value.values()))
        return sum(map(of, value)) if isinstance(value, list | tuple) else 0

    return sum(of(part.state_dict()) for part in parts.values())
