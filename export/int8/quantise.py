"""Quantisation of an FP32 ONNX file to INT8 in Q/DQ form, by ``onnxruntime.quantization``.

One file cannot serve every runtime: ONNX Runtime on a processor wants unsigned asymmetric activations (``u8``), and
TensorRT takes symmetric ones without integer biases only (``s8``). Weights are int8, one scale for each output channel
unless one for each tensor is asked for, which ruins depthwise convolutions. Biases are corrected for the mean shift
that rounded weights make (``bias``).
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np

from slimsight.compress.errors import ExportError, first_error_line
from slimsight.compress.files.atomic import atomic_path

from ..onnx_files.graph import MAX_BYTES, nested_graphs, read_onnx, runtime_errors, runtime_inputs
from ..onnx_files.metadata import PRECISION, stored_metadata, write_metadata_
from ..onnx_files.quantised import (
    CALIBRATION_DIGEST,
    CALIBRATION_IMAGES,
    CALIBRATION_SOURCE,
    FLOAT_LAYERS,
    FORM,
    INT8,
    METHOD,
    PURPOSE,
    PURPOSES,
    QAT_EPOCHS,
    WEIGHTS,
    Form,
    Method,
    WeightScales,
    heavy_layers,
)
from .bias import correct_biases_, mean_inputs
from .calibration import BatchReader, Calibration
from .keep_float import keep_in_float_
from .prepare import PRODUCTS, check_fits, prepare
from .trainable import Trained

_METHODS: Mapping[Method, str] = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_OPTIONS: Mapping[Form, Mapping[str, bool]] = {
    "u8": {},
    "s8": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}


@dataclass(frozen=True)
class Scheme:
    """How an INT8 file is made.

    ``form``: the runtimes that it is for; ``method``: how ranges are chosen; ``weights``: what one scale is for.
    """

    form: Form = "u8"
    method: Method = "minmax"
    weights: WeightScales = "per_channel"


@dataclass(frozen=True)
class QuantisedFile:
    """An INT8 file. ``layers``: its convolutions and matrix products in integers; ``float_layers``: the others."""

    path: Path
    form: Form
    method: Method
    layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    size_bytes: int


def quantise(
    source: Path, path: Path, calibration: Calibration, *, form: Form = "u8", method: Method = "minmax"
) -> QuantisedFile:
    """Write an FP32 ONNX file in INT8: ``Quantiser.write`` of one call."""
    with Quantiser(source, calibration, Scheme(form, method)) as quantiser:
        return quantiser.write(path)


class Quantiser:
    """An FP32 ONNX file that is prepared and calibrated once, and quantised as often as wanted: a context manager.

    Args:
        source: the FP32 file; one float32 input (batch, 3, H, W) of fixed size, at least one convolution.
        calibration: images of the training data; they fix the ranges of values, so no figure may be measured on them.
        scheme: how INT8 files are made of it.

    Raises:
        ExportError: on entering, when the file is missing, is no FP32 network of images, or is quantised already, or
            the images do not fit it.
        RuntimeMissing: ONNX Runtime is missing.
    """

    def __init__(self, source: Path, calibration: Calibration, scheme: Scheme) -> None:
        self.source, self.scheme, self._calibration = source, scheme, calibration
        self._epochs: int | None = None

    def __enter__(self) -> Self:
        takes = check_fits(self.source, self._calibration)
        proto = read_onnx(self.source)
        if proto.ByteSize() > MAX_BYTES:
            raise ExportError(
                f"{self.source} has {proto.ByteSize():,} bytes: one ONNX file can have at most {MAX_BYTES:,}"
            )
        self._metadata, self._batch = stored_metadata(proto), takes.batch
        self._folder = TemporaryDirectory(prefix="slimsight-int8-")
        try:
            self._prepared = prepare(proto, self.source, Path(self._folder.name))
            self.layers = tuple(layer.name for layer in heavy_layers(self._exact.graph))
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @property
    def folder(self) -> Path:
        """A temporary folder for trial files, removed on leaving."""
        return Path(self._folder.name)

    @property
    def prepared(self) -> Path:
        """The FP32 file that is quantised: BatchNorm folded, layers named; removed on leaving."""
        return self._prepared

    @property
    def exact(self) -> Any:
        """The ModelProto of the prepared FP32 file."""
        return self._exact

    def retrain_(self, trained: Trained, epochs: int) -> None:
        """From now on files are made of trained weights and ranges; their biases are not corrected any more."""
        onnx = importlib.import_module("onnx")
        calibrate = importlib.import_module("onnxruntime.quantization.calibrate")
        for tensor in self._exact.graph.initializer:
            if (found := trained.weights.get(tensor.name)) is not None:
                tensor.CopyFrom(onnx.numpy_helper.from_array(found, tensor.name))
        onnx.save(self._exact, self._prepared)
        for name, (low, high) in trained.ranges.items():
            self._ranges[name] = calibrate.TensorData(lowest=np.float32(low), highest=np.float32(high))
        self._epochs = epochs

    def write(self, path: Path, float_layers: Collection[str] = ()) -> QuantisedFile:
        """Write the INT8 file, atomically; the FP32 file's metadata are kept, and say what the INT8 file is for.

        Args:
            path: the INT8 file.
            float_layers: of ``layers``, those that stay in FP32.

        Raises:
            ExportError: onnxruntime.quantization refuses the file.
            RunError: the disk is full or the folder is not writable.
        """
        quantised = self.to_graph(float_layers=float_layers)
        write_metadata_(quantised, self._metadata | self._metadata_of(float_layers))
        return write_quantised(quantised, path, self.scheme)

    def to_graph(self, *, float_layers: Collection[str] = (), only: str | None = None) -> Any:
        """The quantised ModelProto. ``only``: the one layer that is quantised; ``float_layers``: those that are not."""
        assert set(float_layers) <= set(self.layers), float_layers
        library = importlib.import_module("onnxruntime.quantization")
        utils = importlib.import_module("onnxruntime.quantization.quant_utils")
        kinds = library.QuantType
        with self._errors():
            quantizer = library.QDQQuantizer(
                utils.load_model_with_shape_infer(self._prepared),
                self.scheme.weights == "per_channel",
                False,  # 8 bits of weights, not 7
                kinds.QInt8,
                kinds.QUInt8 if self.scheme.form == "u8" else kinds.QInt8,
                copy.deepcopy(self._ranges),  # it writes into them
                [] if only is None else [only],
                list(float_layers),
                _operators(),
                dict(_OPTIONS[self.scheme.form]),
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        proto = quantizer.model.model
        if self._epochs is None:
            correct_biases_(proto.graph, self._exact.graph, self._means)
        _keep_logits_in_float_(proto.graph)  # drops what nothing reads any more
        keep_in_float_(proto.graph, float_layers)
        _drop_unused_domains_(proto)
        return proto

    @cached_property
    def _ranges(self) -> Any:
        """Ranges of all values, measured once."""
        library = importlib.import_module("onnxruntime.quantization")
        reader = self._reader()
        with self._errors(), redirect_stdout(StringIO()):  # the library prints its progress
            calibrator = library.create_calibrator(
                self._prepared,
                _operators(),
                augmented_model_path=str(self.folder / "augmented.onnx"),
                calibrate_method=getattr(library.CalibrationMethod, _METHODS[self.scheme.method]),
            )
            for batch in range(len(reader)):  # histograms of all images at once would fill the memory
                reader.set_range(batch, batch + 1)
                calibrator.collect_data(reader)
            return calibrator.compute_data()

    @cached_property
    def _means(self) -> Mapping[str, Any]:
        with self._errors():
            return mean_inputs(self._prepared, self._reader())

    @cached_property
    def _exact(self) -> Any:
        return read_onnx(self._prepared)

    def _reader(self) -> BatchReader:
        (takes, *_) = runtime_inputs(self._exact.graph)
        return BatchReader(self._calibration, takes.name, batch=self._batch)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises ExportError for what onnxruntime.quantization raises."""
        expected: tuple[type[Exception], ...] = (ValueError, RuntimeError, *runtime_errors())
        try:
            yield
        except expected as error:
            raise ExportError(
                f"{self.source} cannot be quantised ({first_error_line(error)}): export it again, or leave it in FP32"
            ) from error

    def _metadata_of(self, float_layers: Collection[str]) -> dict[str, str]:
        scheme, calibration = self.scheme, self._calibration
        kept = {FLOAT_LAYERS: ", ".join(float_layers)} if float_layers else {}
        kept |= {QAT_EPOCHS: str(self._epochs)} if self._epochs is not None else {}
        kept |= {WEIGHTS: scheme.weights} if scheme.weights != "per_channel" else {}
        return kept | {
            PRECISION: INT8,
            FORM: scheme.form,
            PURPOSE: PURPOSES[scheme.form],
            METHOD: scheme.method,
            CALIBRATION_IMAGES: str(len(calibration)),
            CALIBRATION_SOURCE: calibration.source,
            CALIBRATION_DIGEST: calibration.digest,
        }


def write_quantised(proto: Any, path: Path, scheme: Scheme) -> QuantisedFile:
    """Write a quantised ModelProto, atomically."""
    with atomic_path(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))
    layers = heavy_layers(proto.graph)
    return QuantisedFile(
        path,
        scheme.form,
        scheme.method,
        tuple(layer.name for layer in layers if layer.quantised),
        tuple(layer.name for layer in layers if not layer.quantised),
        path.stat().st_size,
    )


def _operators() -> list[str]:
    """All operators that onnxruntime.quantization quantises."""
    registry = importlib.import_module("onnxruntime.quantization.registry")
    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})


def _keep_logits_in_float_(graph: Any) -> None:
    """Drop the quantisation of logits that a matrix product gives: 8 bits of them would tie classes.

    A convolution keeps it: runtimes compute one in integers only where its output is quantised too.
    """
    producers = {name: node for node in graph.node for name in node.output}
    readers = [name for node in graph.node for name in node.input]
    for value in graph.output:
        restored = producers.get(value.name)
        if restored is None or restored.op_type != "DequantizeLinear":
            continue
        rounded = producers.get(restored.input[0])
        layer = producers.get(rounded.input[0]) if rounded is not None else None
        if rounded is None or layer is None or layer.op_type not in PRODUCTS:
            continue
        if readers.count(rounded.output[0]) > 1 or readers.count(rounded.input[0]) > 1:
            continue
        graph.node.remove(restored)
        graph.node.remove(rounded)
        layer.output[0] = value.name
    _drop_unread_(graph)


def _drop_unread_(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _drop_unused_domains_(proto: Any) -> None:
    """Keep the operator sets that nodes use: ONNX Runtime lists all that it knows."""
    used = {node.domain for inner in nested_graphs(proto.graph) for node in inner.node} | {""}
    kept = [(item.domain, item.version) for item in proto.opset_import if item.domain in used]
    del proto.opset_import[:]
    for domain, version in kept:
        entry = proto.opset_import.add()
        entry.domain, entry.version = domain, version
