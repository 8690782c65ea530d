"""Cost of a network: multiply-accumulates (MACs), parameters and bytes.

MACs are those of convolutions, linear layers and all else that sums up products with weights: one fused multiply-add is
one MAC. fvcore counts convolutions and linear layers; recurrent layers, deformable convolutions and matrix products
with weights outside of any layer are counted here. What cannot be counted is refused by name.
Not counted: biases, normalisation, activations, pooling, additions, products element by element (also where a sum
follows), Fourier transforms. Products of activations with each other (attention) hold no weights: they are counted by
themselves (``MacsCount.attention``), not in the total.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from .dispatch import PRODUCTS, WeightsMode
from .errors import ModelError, first_error_line
from .modes import eval_mode
from .modules import tensors_of
from .outputs import name_tensors

# fvcore's names for a convolution and for a linear layer, which torch lowers in two ways.
_COUNTED = ("conv", "linear", "addmm")
_RECURRENT = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
# Parts of the names of operators that read weights and sum up no products with them.
_FREE = (
    "norm",
    "prelu",
    "embedding",
    "index",
    "gather",
    "scatter",
    "select",
    "slice",
    "cat",
    "stack",
    "copy",
    "clone",
    "where",
    "fill",
    "pad",
    "repeat",
    "roll",
    "grid_sampler",
    "upsample",
    "attention",
    "searchsorted",
    "bucketize",
    "roi_align",
    "roi_pool",
)


@dataclass(frozen=True)
class MacsCount:
    """MACs for one image: the sum, and each convolution and linear module by its name in the model.

    What is computed without such a module (``torch.nn.functional``, recurrent layers, deformable convolutions) is only
    in ``total``. ``attention``: products of activations with each other, by the name of the operator; not in ``total``.
    """

    total: int
    layers: dict[str, int]
    attention: dict[str, int] = field(default_factory=dict)


def count_macs(model: nn.Module, example: Tensor) -> MacsCount:
    """Count the MACs of ``model`` in eval mode on ``example`` (1, 3, H, W), on the device where both are.

    Modules are put back into their modes.

    Raises:
        ModelError: an operator sums up products with a weight in a way that cannot be counted; it is named. Or torch
            cannot trace the model.
    """
    assert len(example) == 1, f"MACs are per image; the example has {len(example)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts functions on import; torch deprecates that
        from fvcore.nn import FlopCountAnalysis
        from fvcore.nn.jit_handles import addmm_flop_jit, conv_flop_jit, linear_flop_jit

    with eval_mode(model), torch.no_grad(), _plain_extra_state(model), _checks_of_sizes():
        products = _run_products(model, example)
        counter = FlopCountAnalysis(_Leaves(model), example)
        counter.clear_op_handles()  # others would fail on what is not counted by them (a matrix times a vector)
        counter.set_op_handle("aten::_convolution", conv_flop_jit, "aten::linear", linear_flop_jit)
        counter.set_op_handle("aten::addmm", addmm_flop_jit)
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        try:
            by_module = counter.by_module_and_operator()
        except Exception as error:  # torch's tracer raises anything
            raise ModelError(
                f"torch.jit.trace, by which layers are counted, fails on the model ({first_error_line(error)}): make "
                "its forward() and hooks compute with its own parameters, and with tensors in place of Python values"
            ) from error
        counts = {
            name: sum(int(by_operator[operator]) for operator in _COUNTED) for name, by_operator in by_module.items()
        }
    modules = model.named_modules()
    layers = {name: counts[_inside(name)] for name, module in modules if isinstance(module, _ConvNd | nn.Linear)}
    return MacsCount(max(counts[""], products.macs), layers, dict(products.attention))


class _Leaves(nn.Module):
    """A network whose outputs, in whatever nest, are a tuple of tensors: torch's tracer takes no others."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(name_tensors(self.net(images)).values())


def _inside(name: str) -> str:
    """The name of a module of a network inside of ``_Leaves``."""
    return f"net.{name}" if name else "net"


def count_products(model: nn.Module, example: Tensor) -> int:
    """MACs of all operators that sum up products of weights with something else, as ``model`` runs on ``example``.

    Of a program of ``torch.export`` too, which has no modes.

    Raises:
        ModelError: an operator sums up products with a weight in a way that cannot be counted; it is named.
    """
    return _run_products(model, example).macs


def _run_products(model: nn.Module, example: Tensor) -> _WeightProducts:
    products = _WeightProducts(example)
    with torch.no_grad(), _plain_attention(), products:
        model(example)
    return products


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Context: torch computes attention and transformers by the operators that they consist of, not by one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _WeightProducts(WeightsMode):  # type: ignore[no-untyped-call]
    """Context: adds up ``macs`` of operators that multiply weights with what is no weight.

    ``attention``: MACs of products of activations with each other, by the name of the operator.
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__(example)
        self.macs = 0
        self.attention: Counter[str] = Counter()

    def after(self, func: Any, args: Sequence[Any], inputs: Sequence[Tensor], result: Any) -> None:
        """See ``WeightsMode``."""
        weights = [tensor for tensor in inputs if self.is_weight(tensor)]
        name = func.overloadpacket.__name__
        if any(isinstance(leaf, torch.ScriptObject) for leaf in tree_leaves(args)):
            raise ModelError(
                f"the MACs of the operator '{name}', whose weights are packed, cannot be counted: give the model as it "
                "was before it was quantized"
            )
        if name in PRODUCTS:
            macs = int(result.numel()) * inputs[-2].shape[-1]
            if self._counts(*inputs[-2:]):
                self.macs += macs
            elif all(map(self.is_activation, inputs[-2:])):
                self.attention[name] += macs
        elif "scaled_dot_product" in name:
            queries, keys, values = inputs[:3]
            scores = queries.shape[:-1].numel() * keys.shape[-2]
            self.attention[name.strip("_")] += scores * (queries.shape[-1] + values.shape[-1])
        elif name == "convolution":  # of a kernel that is computed from the image, too
            transposed = bool(args[6])
            applied = inputs[0].numel() if transposed else int(result.numel())
            self.macs += applied * inputs[1][0].numel()
        elif not weights or torch.Tag.pointwise in func.tags or func.is_view:
            return
        elif name == "linear":
            self.macs += int(result.numel()) * inputs[0].shape[-1]
        elif name == "deform_conv2d":
            self.macs += int(result.numel()) * inputs[1][0].numel()
        elif name in _RECURRENT:
            steps = inputs[0].shape[:-1].numel()
            self.macs += steps * sum(weight.numel() for weight in weights if weight.dim() == 2)
        elif not any(kind in name for kind in _FREE):
            raise ModelError(
                f"the MACs of the operator '{name}', which the model applies to a weight of shape "
                f"{tuple(weights[0].shape)}, cannot be counted: replace it by convolutions, linear layers or matrix "
                "products"
            )

    def _counts(self, left: Tensor, right: Tensor) -> bool:
        """Whether a matrix product is one with a weight, or with what is the same for all images."""
        return any(map(self.is_weight, (left, right))) or self.is_activation(left) != self.is_activation(right)


@contextmanager
def _checks_of_sizes() -> Iterator[None]:
    """Context: ``torch._check`` takes sizes, which torch's tracer makes tensors of (``F.max_unpool2d`` checks some)."""
    own = torch._check_with

    def check(error: type[BaseException], condition: Any, message: Any = None) -> None:
        own(error, bool(condition) if isinstance(condition, Tensor) else condition, message)

    # What all of torch's checks call; mypy takes a module's function for a constant.
    torch._check_with = check  # type: ignore[assignment]
    try:
        yield
    finally:
        torch._check_with = own


@contextmanager
def _plain_extra_state(model: nn.Module) -> Iterator[None]:
    """Context: extra state is an empty tensor; torch's tracer reads the whole state and takes tensors only."""
    own = [m for m in model.modules() if type(m).get_extra_state is not nn.Module.get_extra_state]
    for module in own:
        vars(module)["get_extra_state"] = lambda: torch.empty(0)
    try:
        yield
    finally:
        for module in own:
            del vars(module)["get_extra_state"]


def count_params(model: nn.Module) -> int:
    """Number of parameters; a shared one counts once, buffers (BN statistics) do not."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_bytes(model: nn.Module) -> int:
    """Bytes of the model's tensors, buffers included: its safetensors file without the header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(model).values())
