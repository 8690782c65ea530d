"""An ONNX graph parsed and built: one path for both flavours, with the runtime's errors in one sentence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsight.compress.errors import ExportError
from slimsight.compress.files.atomic import atomic_path

from ..engines.flavour import NAMES, Flavour, to_logger

_SEAL = 32  # bytes of the checksum that a file of times begins with
_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "bad_alloc", "memory allocation", "cudaerror 2)")


@dataclass(frozen=True)
class Built:
    """A serialized engine, its network, and what the builder said; ``builder`` owns the network."""

    blob: Any
    network: Any
    builder: Any
    messages: list[str]


def build(
    trt: Any,
    flavour: Flavour,
    graph: bytes,
    name: str,
    batches: tuple[int, int, int],
    *,
    timing: Path | None = None,
) -> Built:
    """Build an engine.

    Args:
        trt: the flavour's module.
        graph: a serialized ONNX model of one image input.
        name: what messages call it.
        batches: smallest, usual and largest batch size.
        timing: file of measured kernel times, read and written; None where the flavour measures none.

    Raises:
        ExportError: the graph does not parse or does not take these batch sizes, or the builder fails.
    """
    logger = to_logger(trt)
    builder = trt.Builder(logger)
    # From 11 on networks are always strongly typed, and the flag may go.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise ExportError(_refused(parser, NAMES[flavour], name))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine can be read back
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means FP32, not ten bits of mantissa
    images = network.get_input(0)
    shape = tuple(images.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, *((batch, *shape) for batch in batches))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"{NAMES[flavour]} refuses batch sizes {batches} for {name}: {_why(logger.errors())}")
    if timing is not None:
        _load_timing(config, timing)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise ExportError(_failed(NAMES[flavour], name, batches, logger.errors()))
    if timing is not None:
        _save_timing(config, timing)
    return Built(blob, network, builder, [text for _, text in logger.messages])


def _load_timing(config: Any, path: Path) -> None:
    """Give a build the times that earlier ones measured; those of another GPU or version are left aside.

    So are damaged ones, which are then measured again.
    """
    stored = path.read_bytes() if path.is_file() else b""
    seal, stored = stored[:_SEAL], stored[_SEAL:]
    if seal != hashlib.sha256(stored).digest():
        stored = b""
    if not config.set_timing_cache(config.create_timing_cache(stored), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timing(config: Any, path: Path) -> None:
    times = bytes(config.get_timing_cache().serialize())
    with atomic_path(path) as part:
        part.write_bytes(hashlib.sha256(times).digest() + times)


def _refused(parser: Any, runtime: str, name: str) -> str:
    """Why a graph does not parse: the first error that names a node, else the first."""
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    error = next((error for error in errors if error.node_name()), errors[0])
    reason = _why([error.desc()])
    if not error.node_name():
        return f"{runtime} cannot read {name} ({reason}): export it to onnx again"
    node = f"node '{error.node_name()}' ({error.node_operator()})"
    if reason == "false":  # the parser's own condition for an operator that it does not have
        reason = "there is no such operator there"
    return f"{runtime} cannot take {node} of {name}: {reason}; export at another opset, or replace that layer"


def _failed(runtime: str, name: str, batches: tuple[int, int, int], errors: list[str]) -> str:
    """Why a build failed."""
    if any(sign in text.lower() for text in errors for sign in _MEMORY):
        return (
            f"{runtime} ran out of memory while building {name} for up to {batches[2]} images: "
            "lower the largest batch size, or free memory on the device"
        )
    return f"{runtime} cannot build {name} for batch sizes {batches}: {_why(errors)}"


def _why(errors: list[str]) -> str:
    """The first error in one line, without the places in the runtime's own source."""
    text = " ".join((errors or ["it does not say why"])[0].split())
    return text.partition(" In operator()")[0].rstrip(".")
