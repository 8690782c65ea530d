"""Checkpoints of trainings: state trees packed into one safetensors file, saved when cheap, resumed bit for bit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import Damaged
from ..files.atomic import atomic_path, remove_if_empty
from ..progress import SILENT, Progress, Stop

FORMAT = 1
"""Version of the checkpoint format; others are not resumed."""
SHARE = 0.02
"""Share of the training time that saving may take."""
LEAST_SECONDS = 10.0
"""Minimum time between two saves: what a kill costs at most where saving is cheap."""
_BYTES_PER_SECOND = 3e7
"""Assumed speed of the first save (a busy disk that syncs); later saves use the measured time."""
_TREE, _SUM = "tree", "sha256"


class Stateful(Protocol):
    """Protocol of state that a checkpoint can save: modules, optimizers, schedules, controllers.

    A state consists of tensors, numbers, strings and None in mappings, lists and tuples.
    """

    def state_dict(self) -> Mapping[str, Any]:
        """The complete state that determines future steps."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restore a state."""
        ...


class Checkpoints:
    """The checkpoints of one stage, one file per training in it.

    Args:
        folder: made when the first is saved; what else lies there stays.
        key: identifies what is computed; a checkpoint with another key is not resumed.
        seconds: minimum time between two saves; 0: save after every step, whatever it costs.
        stop: polled by all trainings.
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
        """Seconds that each save took."""
        self._earlier = 0.0
        self._started = time.monotonic()
        self._names: set[str] = set()

    def of(self, what: str, parts: Mapping[str, Stateful]) -> Checkpoint:
        """The checkpoint of the training called ``what``, unique within the stage; ``parts``: state to save."""
        assert what not in self._names, f"a stage has two trainings called {what}"
        self._names.add(what)
        return SavedCheckpoint(self, what, self._path(what), parts)

    @property
    def elapsed(self) -> float:
        """Seconds spent on the stage, including those before a resumed checkpoint was saved."""
        return self._earlier + time.monotonic() - self._started

    def resumed(self, elapsed: float) -> None:
        """Record that a checkpoint saved after ``elapsed`` seconds was resumed just now."""
        self._earlier = max(self._earlier, elapsed - (time.monotonic() - self._started))

    def remove(self) -> None:
        """Delete all checkpoints: the stage is finished."""
        for name in self._names:
            self._path(name).unlink(missing_ok=True)
        remove_checkpoints(self.folder)

    def _path(self, what: str) -> Path:
        name = "".join(letter if letter.isalnum() else "-" for letter in what).strip("-")
        return self.folder / f"{name}.safetensors"


class Checkpoint:
    """Checkpoint of a training; this base class never saves or resumes."""

    step = 0
    """The step of the last save."""

    @property
    def due(self) -> bool:
        """Whether to save now."""
        return False

    def load_(self) -> int:
        """Restore all parts; returns the number of steps done, 0 without a checkpoint."""
        return 0

    def save(self, step: int) -> None:
        """Save all parts after ``step`` steps."""

    @contextmanager
    def heeding_stop(self) -> Iterator[None]:
        """Context: the loop inside polls ``due`` after each step."""
        yield


class SavedCheckpoint(Checkpoint):
    """Checkpoint in a file; created by ``Checkpoints.of``."""

    def __init__(self, owner: Checkpoints, what: str, path: Path, parts: Mapping[str, Stateful]) -> None:
        self.path = path
        self._owner, self._what, self._parts = owner, what, parts
        self._saved_at = time.monotonic()
        self._cost: float | None = None
        self._possible = True

    def load_(self) -> int:
        """See ``Checkpoint``; a damaged file is named in a note, and the training starts from its beginning."""
        try:
            saved = read_packed(self.path)
        except FileNotFoundError:
            return 0
        except Damaged as error:
            self._owner.progress.note(f"{self._what}: starts over, its checkpoint is damaged: {error}")
            return 0
        known = saved["format"] == FORMAT and saved["parts"].keys() == self._parts.keys()
        if not known or saved["key"] != self._owner.key:
            return 0
        for name, part in self._parts.items():
            part.load_state_dict(saved["parts"][name])
        self._owner.resumed(saved["elapsed"])
        self._saved_at = time.monotonic()
        self.step = int(saved["step"])
        return self.step

    @property
    def due(self) -> bool:
        if self._owner.stop.wanted:
            return True
        pause, least = time.monotonic() - self._saved_at, self._owner.seconds
        if not self._possible or pause < least:
            return False
        if self._cost is None:  # not before: an optimizer has no state until it steps
            self._cost = _bytes_of_tensors(self._parts) / _BYTES_PER_SECOND
        return least == 0 or pause >= self._cost / SHARE

    def save(self, step: int) -> None:
        """See ``Checkpoint``.

        Raises:
            KeyboardInterrupt: a stop was requested.
            RunError: the disk is full or the folder is not writable.
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
        except TypeError as error:  # a user's module may have objects of any type in its state
            self._possible = False
            owner.progress.note(f"{self._what}: cannot be saved and would start over after an interrupt: {error}")
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


def _bytes_of_tensors(parts: Mapping[str, Stateful]) -> int:
    """Size of all tensors in the parts' states."""

    def of(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.nbytes
        if isinstance(value, Mapping):
            return sum(map(of, value.values()))
        return sum(map(of, value)) if isinstance(value, list | tuple) else 0

    return sum(of(part.state_dict()) for part in parts.values())


def write_packed(path: Path, value: Any) -> int:
    """Write a tree of tensors, numbers, strings and None in mappings, lists and tuples, atomically.

    The file is safetensors, with the tree as JSON and a checksum in its header.

    Returns:
        Its size in bytes.

    Raises:
        TypeError: another type in the tree; it is named.
        RunError: the disk is full or the folder is not writable.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(value, "", tensors, {}))
    content = save(tensors, metadata={_TREE: tree, _SUM: _checksum_of_tree(tree, tensors)})
    with atomic_path(path) as part:
        part.write_bytes(content)
    return len(content)


def remove_checkpoints(folder: Path) -> None:
    """Delete the files of ``write_packed`` in ``folder``, and it where it is empty then; other files stay."""
    for path in folder.glob("*.safetensors"):
        if _is_packed(path):
            path.unlink(missing_ok=True)
    remove_if_empty(folder)


def _is_packed(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {_TREE, _SUM} <= (file.metadata() or {}).keys()
    except (SafetensorError, OSError):
        return False


def read_packed(path: Path) -> Any:
    """Read a file of ``write_packed`` to the CPU: tensors bit for bit, in their memory format.

    Raises:
        Damaged: the file differs from what was written.
        FileNotFoundError: there is none.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = file.keys()  # the file itself cannot be iterated
            tensors = {name: file.get_tensor(name) for name in names}
        tree = header[_TREE]
        if header[_SUM] != _checksum_of_tree(tree, tensors):
            raise Damaged(path, "was changed since it was written: its checksum does not fit")
        return _unpack(json.loads(tree), tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Damaged(path, f"is cut off or was changed since it was written ({error})") from error


def _pack(value: Any, where: str, tensors: dict[str, Tensor], known: dict[tuple[Any, ...], str]) -> Any:
    """``value`` as JSON; its tensors are added to ``tensors``, shared ones once."""
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
        if value.numel() == 0 or key not in known:
            known[key] = where
            # The memory format is kept: sums over tensors in another order may round differently.
            copy = torch.empty_like(value, device="cpu").copy_(value.detach())
            tensors[where] = copy.contiguous()
            return {"tensor": where, "stride": copy.stride()}
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
        stored = tensors[value["tensor"]]
        return torch.empty_strided(stored.shape, value["stride"], dtype=stored.dtype).copy_(stored)
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {key: _unpack(item, tensors) for key, item in value["map"]}


def _checksum_of_tree(tree: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tree and of the tensors' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
