"""Forms of models, files, factories and loaders by kind; each gives a checked figure, or a refusal is raised."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from kinds_networks import BEHAVIOUR, IMAGES, LABELS, LAYERS, SHARED, STATE, Net
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

import slimsight
from slimsight.compress.config import GatesConfig
from slimsight.compress.macs import count_macs
from slimsight.compress.models.user_code import build_from_file
from slimsight.compress.outputs import name_tensors
from slimsight.export.costs.of_onnx import onnx_cost

Form = Callable[[], str]
BY_WEIGHTS = GatesConfig(steer="magnitude")


class Wrong(Exception):
    """A figure is not what it must be."""


def equal(found: object, expected: object, what: str) -> str:
    """``what`` with the figure.

    Raises:
        Wrong: it is another.
    """
    if found != expected:
        raise Wrong(f"{what}: {found} in place of {expected}")
    return f"{what}: {found}"


def slims(build: Callable[[], nn.Module]) -> Form:
    """Slims the network to 80 % of its MACs; they are counted again, and the folder is loaded both ways."""

    def form() -> str:
        model = build()
        traced = slimsight.trace(model, IMAGES)
        scores = slimsight.learn_gates(traced, [(IMAGES, LABELS)], macs=0.95, config=BY_WEIGHTS)
        slim = slimsight.slim(traced, slimsight.select(traced, scores, macs=0.8), [(IMAGES, LABELS)])
        said = equal(count_macs(slim.model, IMAGES[:1]).total, slim.macs, "MACs of the slim model")
        if slim.macs > 0.8 * traced.cost.total:
            raise Wrong(f"{slim.macs} MACs of {traced.cost.total} is above the budget of 80 %")
        expected = name_tensors(slim.model.eval()(IMAGES))
        with tempfile.TemporaryDirectory() as folder:
            slimsight.save(slim, folder)
            for loaded in (slimsight.load(folder), slimsight.load(folder, model)):
                found = name_tensors(loaded(IMAGES))
                difference = max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items())
                if not difference <= 1e-4:
                    raise Wrong(f"the loaded model's logits differ by {difference}")
        return f"{said} of {traced.cost.total}, {len(traced.graph.groups)} groups, {len(traced.graph.frozen)} frozen"

    return form


def counts(body: Callable[[Any, torch.Tensor], Any], macs: int, *shape: int, layer: nn.Module | None = None) -> Form:
    """Counts the MACs of a model of one line."""

    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.layer = nn.Parameter(torch.rand(shape)), layer or nn.Identity()
            self.plain = torch.rand(shape)

        def forward(self, images: torch.Tensor) -> Any:
            return body(self, images)

    return lambda: equal(count_macs(Loose(), torch.rand(1, 3, 8, 8)).total, macs, "MACs")


def reads(macs: int, *nodes: Any, **tensors: Any) -> Form:
    """Counts the MACs of an ONNX file of these nodes, which takes images of 3 x 4 x 4."""

    def form() -> str:
        stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in ENDS]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
        domains = [helper.make_opsetid("", 19), *(helper.make_opsetid(name, 1) for name in (MICROSOFT, "mine"))]
        proto = helper.make_model(graph, opset_imports=domains, ir_version=10)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            onnx.save(proto, path)
            return equal(onnx_cost(path).macs, macs, "MACs")

    return form


MICROSOFT = "com.microsoft"
ENDS = (("x", [1, 3, 4, 4]), ("out", None))


def node(kind: str, inputs: str, out: str = "out", domain: str = "", **more: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [out], domain=domain, name=kind, **more)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


ROWS = node("Flatten", "x", "rows", axis=3)
MACS: dict[str, Form] = {
    "LSTM": counts(lambda net, x: net.layer(x.flatten(2))[0], 5964, layer=nn.LSTM(64, 7, batch_first=True)),
    "GRU": counts(lambda net, x: net.layer(x.flatten(2))[0], 4473, layer=nn.GRU(64, 7, batch_first=True)),
    "LSTMCell": counts(lambda net, x: net.layer(x[:, 0].flatten(1))[0], 1988, layer=nn.LSTMCell(64, 7)),
    "F.conv2d": counts(lambda net, x: F.conv2d(x, net.weight, padding=1), 8640, 5, 3, 3, 3),
    "F.linear": counts(lambda net, x: F.linear(x.mean((2, 3)), net.weight), 15, 5, 3),
    "einsum": counts(lambda net, x: torch.einsum("nchw,cd->ndhw", x, net.weight), 960, 3, 5),
    "baddbmm": counts(lambda net, x: torch.baddbmm(x[:, 0, :3, :5], x.flatten(2), net.weight), 960, 1, 64, 5),
    "a matrix times a vector": counts(lambda net, x: x.flatten(2).transpose(1, 2) @ net.weight, 192, 3),
    "a plain tensor": counts(lambda net, x: x.mean((2, 3)) @ net.plain, 15, 3, 5),
    "F.bilinear": counts(lambda net, x: F.bilinear(x.mean((2, 3)), x.mean((2, 3)), net.weight), 45, 5, 3, 3),
    "MultiheadAttention": counts(
        lambda net, x: net.layer(x.flatten(2), x.flatten(2), x.flatten(2))[0],
        49152,
        layer=nn.MultiheadAttention(64, 2, batch_first=True),
    ),
    "a transformer": counts(
        lambda net, x: net.layer(x.flatten(2)), 61440, layer=nn.TransformerEncoderLayer(64, 2, 32, batch_first=True)
    ),
    "ONNX: Conv": reads(3456, node("Conv", "x w", pads=[1] * 4), w=ones(8, 3, 3, 3)),
    "ONNX: FusedConv": reads(3456, node("FusedConv", "x w", domain=MICROSOFT, pads=[1] * 4), w=ones(8, 3, 3, 3)),
    "ONNX: Conv of nchwc": reads(384, node("Conv", "x w", domain="com.microsoft.nchwc"), w=ones(8, 3, 1, 1)),
    "ONNX: FusedMatMul": reads(336, ROWS, node("FusedMatMul", "rows w", domain=MICROSOFT, transB=1), w=ones(7, 4)),
    "ONNX: Einsum": reads(240, node("Einsum", "x w", equation="nchw,dc->ndhw"), w=ones(5, 3)),
    "ONNX: MatMulNBits": reads(
        336,
        node("Flatten", "x", "row"),
        node("MatMulNBits", "row w s", domain=MICROSOFT, K=48, N=7, bits=4, block_size=16),
        w=np.ones((7, 3, 8), np.uint8),
        s=ones(21),
    ),
    "ONNX: transposed weights": reads(336, ROWS, node("Transpose", "w", "v"), node("MatMul", "rows v"), w=ones(7, 4)),
    "ONNX: dequantized weights": reads(
        336,
        ROWS,
        node("DequantizeLinear", "w s", "v"),
        node("MatMul", "rows v"),
        w=np.ones((4, 7), np.int8),
        s=np.float32(1),
    ),
    "ONNX: weights that are a product": reads(
        336, ROWS, node("MatMul", "u d", "v"), node("MatMul", "rows v"), u=ones(4, 2), d=ones(2, 7)
    ),
    "ONNX: an operator of one's own": reads(0, node("Magic", "x w", domain="mine"), w=ones(4, 7)),
}


@contextmanager
def project(**files: str) -> Iterator[Path]:
    """A folder with Python files; ``__`` in a name stands for a slash."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder) / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        yield Path(folder)


LINEAR = "from torch import nn\ndef make(): return nn.Linear(WIDTH, 2)\n"


def versions(file: str, **files: str) -> Form:
    """Two versions of a project in turn, in one process: each model has the width of its own version."""

    def form() -> str:
        first = {name: text.replace("W0", "3") for name, text in files.items()}
        second = {name: text.replace("W0", "4") for name, text in files.items()}
        with project(**first) as old, project(**second) as new:
            widths = [build_from_file(f"{place / file}:make", 10).in_features for place in (old, new, old)]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("kinds_pkg", "kinds_w")]:
            del sys.modules[name]
        return equal(widths, [3, 4, 3], "widths of old, new, old")

    return form


def makes(line: str, shape: tuple[int, int], name: str = "make") -> Form:
    def form() -> str:
        with project(model=f"import functools\nfrom torch import nn\n{line}\n") as folder:
            net = build_from_file(f"{folder / 'model.py'}:{name}", 10)
        return equal(tuple(net.weight.shape), shape, "shape of the head")

    return form


CODE: dict[str, Form] = {
    "a neighbour": versions("m.py", kinds_w="WIDTH = W0\n", m="from kinds_w import WIDTH\n" + LINEAR),
    "a relative import": versions(
        "kinds_pkg/m.py", kinds_pkg__w="WIDTH = W0\n", kinds_pkg__m="from .w import WIDTH\n" + LINEAR
    ),
    "the package by its name": versions(
        "kinds_pkg/m.py", kinds_pkg__w="WIDTH = W0\n", kinds_pkg__m="from kinds_pkg.w import WIDTH\n" + LINEAR
    ),
    "in the factory": versions(
        "m.py",
        kinds_w="WIDTH = W0\n",
        m="from torch import nn\ndef make():\n    import kinds_w\n    return nn.Linear(kinds_w.WIDTH, 2)\n",
    ),
    "def make(num_classes)": makes("def make(num_classes): return nn.Linear(3, num_classes)", (10, 3)),
    "def make(*, classes)": makes("def make(*, classes): return nn.Linear(3, classes)", (10, 3)),
    "def make(n_classes, /)": makes("def make(n_classes, /): return nn.Linear(3, n_classes)", (10, 3)),
    "def make(**more)": makes("def make(**more): return nn.Linear(3, 4, **more)", (4, 3)),
    "functools.partial": makes("make = functools.partial(nn.Linear, 3, 6)", (6, 3)),
    "a class method": makes(
        "class N:\n    @classmethod\n    def make(cls, classes): return nn.Linear(3, classes)", (10, 3), "N.make"
    ),
    "def make(width)": makes("def make(width): return nn.Linear(width, 2)", (2, 10)),
    "a model in place of a factory": makes("make = nn.Linear(3, 2)", (2, 3)),
}


def learns(batch: Callable[[], Any]) -> Form:
    """Learns gates for a moment on a loader of one batch."""

    def form() -> str:
        traced = slimsight.trace(Net(), IMAGES)
        config = GatesConfig(steer="taylor")
        scores = slimsight.learn_gates(traced, [batch()], macs=0.9, config=config)
        return equal({len(values) for values in scores.values()}, {8}, "scores by group")

    return form


LOADERS: dict[str, Form] = {
    "(images, labels)": learns(lambda: (IMAGES, LABELS)),
    "images alone": learns(lambda: IMAGES),
    "a list": learns(lambda: [IMAGES, LABELS]),
    "a dict": learns(lambda: {"image": IMAGES, "label": LABELS}),
    "numpy arrays": learns(lambda: (IMAGES.numpy(), LABELS.numpy())),
    "labels beyond the classes": learns(lambda: (IMAGES, LABELS + 5)),
    "labels below zero": learns(lambda: (IMAGES, LABELS - 1)),
    "one-hot labels": learns(lambda: (IMAGES, F.one_hot(LABELS, 3))),
    "labels as floats": learns(lambda: (IMAGES, LABELS.float())),
    "NHWC": learns(lambda: (IMAGES.permute(0, 2, 3, 1), LABELS)),
    "bytes": learns(lambda: ((IMAGES * 255).byte(), LABELS)),
    "another size": learns(lambda: (IMAGES[..., :12], LABELS)),
    "labels of another number": learns(lambda: (IMAGES, LABELS[:2])),
    "None": learns(lambda: None),
}
KINDS: dict[str, dict[str, Form]] = {
    "MACs are counted or refused": MACS,
    "model files and factories": CODE,
    "layers": {name: slims(build) for name, build in LAYERS.items()},
    "shared weights and heads of training": {name: slims(build) for name, build in SHARED.items()},
    "state and precision": {name: slims(build) for name, build in STATE.items()},
    "randomness, batches and outputs": {name: slims(build) for name, build in BEHAVIOUR.items()},
    "loaders": LOADERS,
}
