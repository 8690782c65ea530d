"""What an engine was built from and for, kept beside it: when it can be used again, and why it cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimsight.compress.errors import Damaged, ExportError
from slimsight.compress.files.sealed import read_sealed, write_sealed

from .flavour import NAMES, Flavour, Machine

SCHEMA = 1


@dataclass(frozen=True)
class EngineKey:
    """What decides whether a stored engine is the one that is asked for.

    ``onnx`` and ``samples`` are SHA-256 sums; ``samples`` is empty where none decide anything.
    """

    flavour: Flavour
    version: str
    gpu: str
    capability: str
    driver: str
    onnx: str
    precision: str
    batches: tuple[int, int, int]
    samples: str


def sha256(data: bytes | memoryview) -> str:
    """The checksum of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sidecar(path: Path) -> Path:
    """The file beside an engine that says what it is."""
    return path.with_name(f"{path.name}.json")


def write_sidecar(path: Path, key: EngineKey, engine: str, result: Mapping[str, Any]) -> None:
    """Write what an engine is, whole or not at all; ``engine`` is its checksum."""
    write_sealed(sidecar(path), {"schema": SCHEMA, "engine": engine, "key": asdict(key), "result": dict(result)})


def read_sidecar(path: Path) -> tuple[EngineKey, dict[str, Any]]:
    """Key and result of the engine at ``path``, whose bytes are checked.

    Raises:
        ExportError: the engine or its key is missing, damaged, or written by another version of slimsight.
    """
    beside = sidecar(path)
    for file in (path, beside):
        if not file.is_file():
            raise ExportError(f"there is no {file}: export the engine first")
    try:
        stored = read_sealed(beside, older=True)
        if not stored.keys() <= {"schema", "engine", "key", "result"}:
            raise ValueError("keys that no version writes")
        schema, engine, result = stored["schema"], stored["engine"], dict(stored["result"])
        key = EngineKey(**{**stored["key"], "batches": tuple(stored["key"]["batches"])})
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{beside} does not say what its engine is: export the engine again") from error
    if schema != SCHEMA:
        raise ExportError(f"{beside} has schema {schema}, this version reads {SCHEMA}: export the engine again")
    if sha256(path.read_bytes()) != engine:
        raise ExportError(f"{path} is not the engine that was built (truncated or changed): export it again")
    return key, result


def refuse_foreign(path: Path, key: EngineKey, flavour: Flavour, version: str, machine: Machine) -> None:
    """Raise where an engine was built for something else than what is here.

    TensorRT's engines run on the GPU they were built on; those of TensorRT for RTX on every one of the compute
    capabilities they hold, which the runtime itself judges. Both run in the version that built them alone.

    Raises:
        ExportError: another runtime, version or GPU; says both, and how to build the engine anew.
    """
    built, here = f"{NAMES[key.flavour]} {key.version}", f"{NAMES[flavour]} {version}"
    again = f"export it again here with --to {flavour}"
    if built != here:
        raise ExportError(f"{path} was built by {built}, here is {here}: {again}")
    ours = (machine.gpu, machine.capability)
    if flavour == "tensorrt" and machine.has_gpu and (key.gpu, key.capability) != ours:
        raise ExportError(
            f"{path} was built on {key.gpu} (compute capability {key.capability}), here is {machine.gpu} "
            f"({machine.capability}): {again}"
        )
