"""Calls of TensorRT's parser and builder, for both flavours; their errors become one sentence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsight.compress.errors import ExportError
from slimsight.compress.files.atomic import atomic_path

from ..engines.flavour import FLAVOUR_NAMES, Flavour, keeping_logger

_CHECKSUM_BYTES = 32  # of the SHA-256 sum that a timing cache file begins with
_NO_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "bad_alloc", "memory allocation", "cudaerror 2)")


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, its network, and the builder's log; ``builder`` owns the network."""

    blob: Any
    network: Any
    builder: Any
    messages: list[str]


def build_engine(
    trt: Any,
    flavour: Flavour,
    graph: bytes,
    name: str,
    batches: tuple[int, int, int],
    *,
    timing: Path | None = None,
) -> BuiltEngine:
    """Build an engine.

    Args:
        trt: the flavour's Python module.
        graph: a serialized ONNX model with one image input.
        name: what messages call the model.
        batches: smallest, optimal and largest batch size.
        timing: file of the timing cache (measured kernel times), read and written; None where there is none.

    Raises:
        ExportError: the graph does not parse or does not take these batch sizes, or the builder fails.
    """
    logger = keeping_logger(trt)
    builder = trt.Builder(logger)
    # From TensorRT 11 on networks are always strongly typed, and the flag may disappear.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise ExportError(_parse_failure(parser, FLAVOUR_NAMES[flavour], name))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine can be read back
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means FP32, not ten bits of mantissa
    images = network.get_input(0)
    shape = tuple(images.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, *((batch, *shape) for batch in batches))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(
            f"{FLAVOUR_NAMES[flavour]} refuses batch sizes {batches} for {name}: {_first_error(logger.errors())}"
        )
    if timing is not None:
        _load_timing_cache(config, timing)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise ExportError(_build_failure(FLAVOUR_NAMES[flavour], name, batches, logger.errors()))
    if timing is not None:
        _save_timing_cache(config, timing)
    return BuiltEngine(blob, network, builder, [text for _, text in logger.messages])


def _load_timing_cache(config: Any, path: Path) -> None:
    """Give a build the kernel times of earlier ones; a damaged cache, or one of another GPU or version, is ignored."""
    stored = path.read_bytes() if path.is_file() else b""
    checksum, cache = stored[:_CHECKSUM_BYTES], stored[_CHECKSUM_BYTES:]
    if checksum != hashlib.sha256(cache).digest():
        cache = b""
    if not config.set_timing_cache(config.create_timing_cache(cache), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timing_cache(config: Any, path: Path) -> None:
    cache = bytes(config.get_timing_cache().serialize())
    with atomic_path(path) as part:
        part.write_bytes(hashlib.sha256(cache).digest() + cache)


def _parse_failure(parser: Any, runtime: str, name: str) -> str:
    """The message for a graph that does not parse: the first error that names a node, else the first."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    error = next((error for error in errors if error.node_name()), errors[0])
    reason = _first_error([error.desc()])
    if not error.node_name():
        return f"{runtime} cannot read {name} ({reason}): export it to onnx again"
    node = f"node '{error.node_name()}' ({error.node_operator()})"
    if reason == "false":  # what the parser reports of an operator that it does not have
        reason = "there is no such operator there"
    return f"{runtime} cannot take {node} of {name}: {reason}; export at another opset, or replace that layer"


def _build_failure(runtime: str, name: str, batches: tuple[int, int, int], errors: list[str]) -> str:
    """The message for a failed build."""
    if any(sign in text.lower() for text in errors for sign in _NO_MEMORY):
        return (
            f"{runtime} ran out of memory while building {name} for up to {batches[2]} images: "
            "lower the largest batch size, or free memory on the device"
        )
    return f"{runtime} cannot build {name} for batch sizes {batches}: {_first_error(errors)}"


def _first_error(errors: list[str]) -> str:
    """The first error in one line, without locations in the runtime's source code."""
    text = " ".join((errors or ["it does not say why"])[0].split())
    return text.partition(" In operator()")[0].rstrip(".")
