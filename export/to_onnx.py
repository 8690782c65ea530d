"""A model as one ONNX file with its weights inside, and the proof that the file holds that model's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimsight.compress.errors import ExportError
from slimsight.compress.files.atomic import atomic_path

from .onnx_files.graph import import_onnx, name_layers_, read_onnx, tidy_, training_nodes, with_constant_shapes_
from .onnx_files.metadata import NOTHING, About, describe, write_metadata_
from .pt2.export import cpu_copy, first_line, quiet, trace

Shape = tuple[int, ...]

INPUT = "images"
_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_MAX_BYTES = 2**31 - 1  # protobuf refuses larger messages


def export_onnx(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    outputs: Sequence[str] = ("logits",),
    about: About = NOTHING,
) -> None:
    """Write ``model`` as one self-contained ONNX file of any batch size; whole or not at all.

    The exporter folds each BatchNorm that follows a convolution into it; shapes of weights stay. Input
    ``images`` (batch, 3, H, W), raw in [0, 1]; output ``logits`` (batch, classes). Nodes are named after the
    layers that they compute; ``metadata_props`` say what the file takes and gives (see ``metadata``).

    Args:
        model: raw images -> logits; copied to the CPU in eval mode, not changed.
        example: (N, 3, H, W), any N; only its shape and dtype are used.
        path: the file to write.
        opset: version of ONNX's operator set.
        outputs: what the model's outputs are called; the first are its logits.
        about: what the metadata say beside what the model shows.

    Raises:
        ExportError: the model cannot be traced, has an operator without ONNX form (at this opset), computes
            something only while it trains, or is larger than 2 GiB.
        RunError: the disk is full or the place is not writable.
    """
    onnx = import_onnx()
    written = convert(model, example, opset=opset, outputs=outputs)
    proto = written.model_proto
    if proto.ByteSize() > _MAX_BYTES:
        raise ExportError(
            f"{type(model).__name__} needs {proto.ByteSize():,} bytes and one ONNX file holds at most "
            f"{_MAX_BYTES:,}: export to pt2 only"
        )
    with_constant_shapes_(proto.graph)
    name_layers_(proto.graph)
    tidy_(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{type(model).__name__} gives a graph that ONNX refuses at opset {opset}: {first_line(error)}; "
            "choose another opset, or export to pt2 only"
        ) from error
    if found := training_nodes(proto.graph):
        raise ExportError(
            f"{type(model).__name__} computes {found[0]} as in training even in eval mode: let it follow "
            "self.training (F.dropout(x, p, self.training), BatchNorm without a fixed training flag)"
        )
    classes = proto.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    write_metadata_(proto, describe(model, example, classes, about))
    with atomic_path(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))


def convert(model: nn.Module, example: Tensor, *, opset: int, outputs: Sequence[str] = ("logits",)) -> Any:
    """torch's ONNXProgram of ``model``: the graph as ``model_proto``, what it was made of as ``exported_program``.

    Raises:
        ExportError: as ``export_onnx``.
    """
    program = trace(model, example)
    try:
        with quiet():
            written = torch.onnx.export(
                program,
                (),
                input_names=[INPUT],
                output_names=list(outputs),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"{type(model).__name__} has no ONNX form at opset {opset}: {first_line(error)}; "
            "choose another opset, or export to pt2 only"
        ) from error
    assert written is not None
    # Asked for an older operator set than the model's operators have, torch silently keeps its own.
    stated = next(item.version for item in written.model_proto.opset_import if not item.domain)
    if stated != opset:
        raise ExportError(
            f"{type(model).__name__} has no ONNX form at opset {opset}: its operators need opset {stated}; ask for "
            f"opset {stated} or newer, or export to pt2 only"
        )
    return written


def conv_shapes(path: Path) -> list[Shape]:
    """Shapes of the weights stored in an ONNX file, in the order its graph uses them.

    Convolutions (grouped and depthwise too) as (out, in / groups, k, k), Gemm and MatMul as (out, in).

    Raises:
        ExportError: the file is missing or is no ONNX file.
    """
    return [layer.shape for layer in _file_layers(read_onnx(path))]


def verify_shapes(path: Path, model: nn.Module) -> None:
    """Prove that the layers stored in an ONNX file have the shapes of the layers ``model`` runs.

    The model runs once, as a copy in eval mode, on one image of the file's own size: layers that it owns
    but does not use are not asked for.

    Raises:
        ExportError: the file is unreadable, or a layer differs: the first one is named, with both shapes.
    """
    proto = read_onnx(path)
    stored, used = _file_layers(proto), _model_layers(model, _image_shape(proto, path))
    # The exporter keeps the order of execution; an optimiser may not, so the order itself is not judged.
    if sorted(layer.shape for layer in stored) == sorted(layer.shape for layer in used):
        return
    for ours, theirs in zip_longest(used, stored):
        if ours is None or theirs is None or ours.shape != theirs.shape:
            name = ours.name if ours is not None else theirs.name
            raise ExportError(
                f"{path.name} does not hold this model: layer '{name}' is {_by(ours)} in the model and "
                f"{_by(theirs)} in the file; export this model again"
            )
    raise AssertionError("sequences of different shapes differ somewhere")


class _Layer(NamedTuple):
    """A convolution or linear layer: where its weight is kept, and the weight's shape."""

    name: str
    shape: Shape


class _LayerRecorder(TorchFunctionMode):
    """Notes the weight of each convolution and linear layer that runs inside the block, modules or not."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names  # id(weight) -> its name in the model
        self.layers: list[_Layer] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        kind = getattr(func, "__name__", "")
        if kind in _CONVOLUTIONS or kind == "linear":
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            name = self.names.get(id(weight), f"{kind} {len(self.layers)}")
            self.layers.append(_Layer(name.removesuffix(".weight"), tuple(weight.shape)))
        return func(*args, **kwargs)


def _model_layers(model: nn.Module, image_shape: Shape) -> list[_Layer]:
    """The layers with weights that ``model`` runs for one image of ``image_shape``, in order of execution."""
    twin = cpu_copy(model)
    named = (*twin.named_parameters(), *twin.named_buffers())
    recorder = _LayerRecorder({id(tensor): name for name, tensor in named})
    with torch.inference_mode(), recorder:
        twin(torch.zeros(1, *image_shape))
    return recorder.layers


def _file_layers(proto: Any) -> list[_Layer]:
    """The layers with stored weights in a graph, in its order; linear weights turned to (out, in)."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    layers = []
    for node in proto.graph.node:
        if node.op_type == "Transpose" and node.input[0] in shapes:
            source = shapes[node.input[0]]
            order = next((a.ints for a in node.attribute if a.name == "perm"), range(len(source))[::-1])
            shapes[node.output[0]] = tuple(source[axis] for axis in order)
        elif node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.input[1] in shapes:
            shape = shapes[node.input[1]]
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            if node.op_type in ("Gemm", "MatMul") and not turned:
                shape = shape[::-1]
            layers.append(_Layer(node.input[1].removesuffix(".weight"), shape))
    return layers


def _image_shape(proto: Any, path: Path) -> Shape:
    """(channels, height, width) of the images a graph takes."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in stored]
    dims = inputs[0].type.tensor_type.shape.dim[1:] if len(inputs) == 1 else ()
    shape = tuple(dim.dim_value for dim in dims)
    if len(shape) != 3 or 0 in shape:
        raise ExportError(f"{path.name} takes no single input (batch, 3, H, W) of known size: export the model again")
    return shape


def _by(layer: _Layer | None) -> str:
    return "absent" if layer is None else "x".join(map(str, layer.shape))
