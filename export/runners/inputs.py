"""What an exported file takes, read from the file itself: no runtime has to be able to run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slimsight.compress.errors import ExportError

from ..onnx_files.contents import check_image
from ..onnx_files.graph import import_onnx, read_onnx
from ..pt2.export import load_program


@dataclass(frozen=True)
class ImageInput:
    """``size``: (H, W) in pixels, or None where any is taken; ``batch``: images per call, None: any number."""

    size: tuple[int, int] | None
    batch: int | None


def read_input(path: Path) -> ImageInput:
    """What an ``.onnx`` or ``.pt2`` file takes.

    Raises:
        ExportError: the file is missing or not whole, or does not take images (batch, 3, H, W) in fp32.
    """
    if not path.is_file():
        raise ExportError(f"there is no {path}: give a file that was exported, or the folder of a run")
    return _of_onnx(path) if path.suffix == ".onnx" else _of_pt2(path)


def _of_onnx(path: Path) -> ImageInput:
    onnx = import_onnx()
    graph = read_onnx(path, external=False).graph
    known = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in known]  # old files list their weights as inputs
    if len(inputs) != 1 or not graph.node:
        raise ExportError(f"{path} has {len(inputs)} inputs and {len(graph.node)} nodes: one input of images is needed")
    kind = inputs[0].type.tensor_type
    shape = [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim]
    return _checked(path, shape, onnx.TensorProto.DataType.Name(kind.elem_type).lower(), "float")


def _of_pt2(path: Path) -> ImageInput:
    program = load_program(path)
    name = next(iter(program.graph_signature.user_inputs), None)
    found = next((node.meta["val"] for node in program.graph.nodes if node.name == name), None)
    if not isinstance(found, torch.Tensor):
        raise ExportError(f"{path} takes no tensor: one input of images is needed")
    shape = [size if isinstance(size, int) else None for size in found.shape]
    return _checked(path, shape, str(found.dtype).removeprefix("torch."), "float32")


def _checked(path: Path, shape: Sequence[int | None], kind: str, wanted: str) -> ImageInput:
    shown = f"({', '.join('any' if size is None else str(size) for size in shape)}) {kind}"
    needed = "images as (batch, 3, H, W) float32 are needed"
    if kind != wanted:
        raise ExportError(f"{path} takes {shown}: {needed}, export it with a float32 input")
    if len(shape) != 4:
        raise ExportError(f"{path} takes {shown}: {needed}")
    if shape[1] not in (3, None):
        last = shape[3] == 3
        raise ExportError(f"{path} takes {shown}: {needed}{', export it with channels first' if last else ''}")
    check_image(path, [1 if size is None else size for size in shape])
    height, width = shape[2:]
    return ImageInput(None if height is None or width is None else (height, width), shape[0])
