"""Tracing a model with a free batch size, which all exports start from, and writing and reading ``.pt2`` files."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from slimsight.compress.errors import ExportError, first_error_line
from slimsight.compress.files.atomic import atomic_path
from slimsight.compress.inputs import Example, as_arguments
from slimsight.compress.modules import copy_of
from slimsight.compress.outputs import name_tensors, plain

from .contents import METADATA_FILE, harmless_archive

# What forward() and torch.export raise on models that they cannot trace; torch's own errors are RuntimeErrors.
_TRACE_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError)
# What torch raises on a damaged program.
_DAMAGED_ERRORS = (*_TRACE_ERRORS, LookupError, AttributeError, ArithmeticError, SyntaxError, zipfile.BadZipFile)


@contextlib.contextmanager
def silence_output() -> Iterator[None]:
    """Suppress prints, warnings and logging of exporters inside the block; exceptions are still raised."""
    disabled = logging.root.manager.disable
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        logging.disable(max(disabled, logging.ERROR))
        try:
            yield
        finally:
            logging.disable(disabled)


def cpu_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` on the CPU, in eval mode, contiguous, without gradients."""
    return copy_of(model).cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


def trace(model: nn.Module, example: Example, *, named: bool = False, most: int | None = None) -> ExportedProgram:
    """Trace ``model`` in eval mode with a free batch size; the other sizes are those of ``example`` (N, C, H, W).

    ``named``: the program returns a dict of its tensors by their names (``name_tensors``), whatever the model returns;
    it always does where that is of a type of the user's own.

    ``model`` is not changed. Only shape and dtype of ``example`` are used: torch.export stores its inputs in the
    program, and a user's images must not get into an artefact.

    Args:
        most: images of a call; 1: the batch size is fixed; None: any number.

    Raises:
        ExportError: ``example`` is not a batch of images; the model fixes its batch size or branches on values.
    """
    if isinstance(example, Tensor) and example.ndim != 4:
        raise ExportError(f"the example has shape {tuple(example.shape)}: give images (N, 3, H, W)")
    # torch.export treats a batch size of 1 as a constant, so the model is always traced with two images.
    args, keywords = as_arguments(example)
    rows = 1 if most == 1 else 2
    images = tuple(torch.zeros(rows, *value.shape[1:], dtype=value.dtype) for value in args)
    others = {name: torch.zeros(rows, *value.shape[1:], dtype=value.dtype) for name, value in keywords.items()}
    sizes: Any = None
    if most != 1:
        batch = Dim("batch", max=most)
        sizes = {name: {0: batch} for name in others} or tuple({0: batch} for _ in images)
    copy = cpu_copy(model)
    copy.register_forward_hook(lambda _module, _args, outputs: name_tensors(outputs) if named else plain(outputs))
    try:
        with silence_output():
            program = torch.export.export(copy, images, others or None, dynamic_shapes=sizes)
    except _TRACE_ERRORS as error:
        raise ExportError(
            f"{type(model).__name__} cannot be traced with a free batch size for images of shape "
            f"{_shapes_text(example)}: {first_error_line(error)}; in forward(), use flatten(1) instead of a "
            "fixed batch size, x.shape[0] instead of len(x), and do not branch on the values of tensors"
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # holds the paths of the machine that exported
    return program


def _shapes_text(example: Example) -> str:
    args, keywords = as_arguments(example)
    return " and ".join(str(tuple(value.shape[1:])) for value in (*args, *keywords.values()))


def export_pt2(model: nn.Module, example: Example, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``model`` as ``.pt2`` of any batch size, loadable with plain torch; atomically.

    Args:
        model: raw images (N, C, H, W) -> logits (N, classes), or any nest of tensors; copied to the CPU in eval mode,
            not changed.
        example: (N, C, H, W), any N, or several inputs; only shapes and dtypes are used.
        path: the file to write.
        metadata: what the file says of itself (``read_pt2_metadata``; torch reads it as the extra file of that name).

    Raises:
        ExportError: the model cannot be traced with a free batch size.
        RunError: the disk is full or the folder is not writable.
    """
    program = trace(model, example)
    buffer = io.BytesIO()
    with silence_output():
        extra = {} if metadata is None else {METADATA_FILE: json.dumps(dict(metadata), sort_keys=True)}
        torch.export.save(program, buffer, extra_files=extra)
    with atomic_path(path) as part:
        part.write_bytes(buffer.getvalue())


def load_program(path: Path) -> ExportedProgram:
    """The program stored in a ``.pt2`` file, loaded without running code from an untrusted file.

    Raises:
        ExportError: the file is missing, is not a .pt2 that this torch can read, or contains more than a network; or
            it computes with torchvision's operators, which are not installed.
    """
    try:
        archive = harmless_archive(path)
        if b"torch.ops.torchvision." in archive.getvalue():
            importlib.import_module("torchvision")  # which registers its operators
        with silence_output():
            return torch.export.load(archive)
    except FileNotFoundError as error:
        raise ExportError(f"there is no {path}: export the model to pt2 first") from error
    except ImportError as error:
        raise ExportError(f"{path} computes with operators of torchvision: pip install torchvision") from error
    except _DAMAGED_ERRORS as error:
        raise ExportError(
            f"{path} is not a .pt2 that torch {torch.__version__} reads ({first_error_line(error)}): export it again"
        ) from error


def load_pt2(path: Path) -> nn.Module:
    """The model stored in a ``.pt2`` file, on the CPU: raw images (N, 3, H, W) -> logits (N, classes).

    Raises:
        ExportError: the file is missing, or is not a .pt2 that this torch can read.
    """
    return load_program(path).module()
