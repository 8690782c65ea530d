"""Image size and batch size that an ONNX, ``.pt2`` or ``.pte`` file takes, read from the file without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slimsight.compress.errors import ExportError

from ..onnx_files.contents import check_image
from ..onnx_files.graph import import_onnx, read_onnx, runtime_inputs, static_sizes
from ..pt2.export import load_program
from ..pte.runtime import load_pte, why_no_executorch


@dataclass(frozen=True)
class ImageInput:
    """The images that a file takes: ``size`` (H, W) in pixels, ``batch`` images per call; None where any is taken."""

    size: tuple[int, int] | None
    batch: int | None


def read_input(path: Path) -> ImageInput:
    """The images that an ``.onnx``, ``.pt2`` or ``.pte`` file takes.

    Raises:
        ExportError: the file is missing or damaged, or does not take images (batch, 3, H, W) in fp32.
    """
    if not path.is_file():
        raise ExportError(f"there is no {path}: give a file that was exported, or the folder of a run")
    if path.suffix == ".pte":
        return _pte_input(path)
    return _onnx_input(path) if path.suffix == ".onnx" else _pt2_input(path)


def _pte_input(path: Path) -> ImageInput:
    """Nothing is known of it without ExecuTorch, which says then that it is missing where the file is opened."""
    if why_no_executorch() is not None:
        return ImageInput(None, None)
    most, *_, height, width = load_pte(path).sizes
    return ImageInput((height, width), 1 if most == 1 else None)


def _onnx_input(path: Path) -> ImageInput:
    onnx = import_onnx()
    graph = read_onnx(path, external=False).graph
    inputs = runtime_inputs(graph)
    if len(inputs) != 1 or not graph.node:
        raise ExportError(f"{path} has {len(inputs)} inputs and {len(graph.node)} nodes: one input of images is needed")
    dtype = onnx.TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type).lower()
    return _checked_input(path, static_sizes(inputs[0]), dtype, "float")


def _pt2_input(path: Path) -> ImageInput:
    program = load_program(path)
    name = next(iter(program.graph_signature.user_inputs), None)
    example = next((node.meta["val"] for node in program.graph.nodes if node.name == name), None)
    if not isinstance(example, torch.Tensor):
        raise ExportError(f"{path} takes no tensor: one input of images is needed")
    shape = [size if isinstance(size, int) else None for size in example.shape]
    return _checked_input(path, shape, str(example.dtype).removeprefix("torch."), "float32")


def _checked_input(path: Path, shape: Sequence[int | None], dtype: str, float32: str) -> ImageInput:
    """The input, if it is images in float32; ``float32`` is the format's own name of that type."""
    shown = f"({', '.join('any' if size is None else str(size) for size in shape)}) {dtype}"
    needed = "images as (batch, 3, H, W) float32 are needed"
    if dtype != float32:
        raise ExportError(f"{path} takes {shown}: {needed}, export it with a float32 input")
    if len(shape) != 4:
        raise ExportError(f"{path} takes {shown}: {needed}")
    if shape[1] not in (3, None):
        channels_last = shape[3] == 3
        raise ExportError(f"{path} takes {shown}: {needed}{', export it with channels first' if channels_last else ''}")
    check_image(path, [1 if size is None else size for size in shape])
    height, width = shape[2:]
    return ImageInput(None if height is None or width is None else (height, width), shape[0])
