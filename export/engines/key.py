"""The key of an engine, in a sidecar file beside it: what it was built from and for, and whether it fits here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimsight.compress.errors import Damaged, ExportError
from slimsight.compress.files.sealed import read_sealed, write_sealed

from .flavour import FLAVOUR_NAMES, Flavour, Machine

SIDECAR_SCHEMA = 1


@dataclass(frozen=True)
class EngineKey:
    """Everything that a stored engine depends on: it is reused where all fields are equal.

    ``onnx`` and ``samples`` are SHA-256 sums; ``samples`` is empty where the engine does not depend on any.
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
    """The SHA-256 sum of ``data``, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sidecar(path: Path) -> Path:
    """The path of an engine's sidecar, ``<engine>.json``: its key, checksum and result."""
    return path.with_name(f"{path.name}.json")


def write_sidecar(path: Path, key: EngineKey, engine: str, result: Mapping[str, Any]) -> None:
    """Write an engine's sidecar atomically; ``engine`` is the engine's checksum."""
    write_sealed(
        sidecar(path), {"schema": SIDECAR_SCHEMA, "engine": engine, "key": asdict(key), "result": dict(result)}
    )


def read_sidecar(path: Path) -> tuple[EngineKey, dict[str, Any]]:
    """Key and result of the engine at ``path``, after checking the engine's checksum.

    Raises:
        ExportError: the engine or its sidecar is missing, damaged, or written by another version of slimsight.
    """
    key_file = sidecar(path)
    for file in (path, key_file):
        if not file.is_file():
            raise ExportError(f"there is no {file}: export the engine first")
    try:
        stored = read_sealed(key_file, older=True)
        if not stored.keys() <= {"schema", "engine", "key", "result"}:
            raise ValueError("unknown keys")
        schema, engine, result = stored["schema"], stored["engine"], dict(stored["result"])
        key = EngineKey(**{**stored["key"], "batches": tuple(stored["key"]["batches"])})
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{key_file} does not say what its engine is: export the engine again") from error
    if schema != SIDECAR_SCHEMA:
        raise ExportError(
            f"{key_file} has schema {schema}, this version reads {SIDECAR_SCHEMA}: export the engine again"
        )
    if sha256(path.read_bytes()) != engine:
        raise ExportError(f"{path} is not the engine that was built (truncated or changed): export it again")
    return key, result


def refuse_incompatible(path: Path, key: EngineKey, flavour: Flavour, version: str, machine: Machine) -> None:
    """Refuse an engine that was built by another runtime or version, or for another GPU.

    An engine of TensorRT runs only on the GPU model that it was built on; one of TensorRT for RTX on all compute
    capabilities that it supports, which the runtime itself checks. Both run only in the version that built them.

    Raises:
        ExportError: runtime, version or GPU differ; the message names both, and how to build the engine again.
    """
    built, here = f"{FLAVOUR_NAMES[key.flavour]} {key.version}", f"{FLAVOUR_NAMES[flavour]} {version}"
    again = f"export it again here with --to {flavour}"
    if built != here:
        raise ExportError(f"{path} was built by {built}, here is {here}: {again}")
    gpu = (machine.gpu, machine.capability)
    if flavour == "tensorrt" and machine.has_gpu and (key.gpu, key.capability) != gpu:
        raise ExportError(
            f"{path} was built on {key.gpu} (compute capability {key.capability}), here is {machine.gpu} "
            f"({machine.capability}): {again}"
        )
