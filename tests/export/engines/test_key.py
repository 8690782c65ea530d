"""Engines that are damaged, of another version or of another GPU are refused by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from slimsight.compress.errors import ExportError
from slimsight.compress.files.sealed import read_sealed, write_sealed
from slimsight.export.engines.flavour import Machine
from slimsight.export.engines.key import EngineKey, read_sidecar, refuse_incompatible, sha256, sidecar, write_sidecar

KEY = EngineKey("tensorrt", "10.13.3", "NVIDIA L4", "8.9", "13.0", "ab" * 32, "fp16", (1, 1, 32), "")
HERE = Machine("NVIDIA L4", "8.9", "13.0")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan" * 100)
    write_sidecar(path, KEY, sha256(path.read_bytes()), {"precision": "fp16"})
    return path


def test_a_key_comes_back_as_it_was_written(engine: Path) -> None:
    assert read_sidecar(engine) == (KEY, {"precision": "fp16"})
    assert sidecar(engine).name == "model.engine.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), r"there is no .*model\.engine: export the engine first"),
        (lambda path: sidecar(path).unlink(), r"there is no .*model\.engine\.json: export the engine first"),
        (lambda path: path.write_bytes(b"plan" * 99), r"is not the engine that was built \(truncated or changed\)"),
        (lambda path: path.write_bytes(b"plam" + b"plan" * 99), r"is not the engine that was built"),
        (
            lambda path: sidecar(path).write_text(sidecar(path).read_text().replace("10.13.3", "10.13.4")),
            r"does not say what its engine is",
        ),
        (lambda path: sidecar(path).write_text("{"), r"does not say what its engine is: export the engine again"),
        (lambda path: sidecar(path).write_text("[]"), r"does not say what its engine is"),
        (lambda path: sidecar(path).write_bytes(b"\xff\xfe\x00"), r"does not say what its engine is"),
        (
            lambda path: write_sealed(sidecar(path), {**read_sealed(sidecar(path)), "schema": 7}),
            r"has schema 7, this version reads 1: export the engine again",
        ),
    ],
)
def test_damaged_engines_are_refused(engine: Path, change, message: str) -> None:
    change(engine)
    with pytest.raises(ExportError, match=message) as raised:
        read_sidecar(engine)
    assert "\n" not in str(raised.value)


def test_engines_of_elsewhere_are_refused_with_what_was_built_and_what_is_here(engine: Path) -> None:
    refuse_incompatible(engine, KEY, "tensorrt", "10.13.3", HERE)
    cases = [
        (("tensorrt", "11.0.0", HERE), "was built by TensorRT 10.13.3, here is TensorRT 11.0.0: export it again here"),
        (("tensorrt-rtx", "1.7.1", HERE), "was built by TensorRT 10.13.3, here is TensorRT for RTX 1.7.1: "),
        (
            ("tensorrt", "10.13.3", Machine("NVIDIA H200", "9.0", "13.0")),
            "was built on NVIDIA L4 (compute capability 8.9), here is NVIDIA H200 (9.0): export it again here",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(ExportError, match=re.escape(message)):
            refuse_incompatible(engine, KEY, *arguments)
    # TensorRT for RTX compiles for the GPU when it opens an engine: one that was built without a GPU runs on many.
    anywhere = replace(KEY, flavour="tensorrt-rtx", version="1.7.1", gpu="none", capability="none")
    refuse_incompatible(engine, anywhere, "tensorrt-rtx", "1.7.1", HERE)


@pytest.mark.parametrize("name", ["flavour", "version", "gpu", "capability", "driver", "onnx", "precision", "samples"])
def test_every_part_of_a_key_decides(name: str) -> None:
    assert replace(KEY, **{name: "other"}) != KEY
    assert replace(KEY, batches=(1, 1, 1)) != KEY
