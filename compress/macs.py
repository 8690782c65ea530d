"""Cost of a network: multiply-accumulates (MACs), parameters and bytes.

MACs are those of convolutions and linear layers, counted by fvcore: one fused multiply-add is one MAC.
Not counted: biases, normalisation, activations, pooling, additions, attention scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .modes import eval_mode
from .modules import tensors_of

# fvcore's names for a convolution and for a linear layer, which torch lowers in two ways.
_COUNTED = ("conv", "linear", "addmm")


@dataclass(frozen=True)
class MacsCount:
    """MACs for one image: the sum, and each convolution and linear module by its name in the model.

    Layers called through ``torch.nn.functional`` have no module and are only in ``total``; torch's fused attention
    (transformers in eval mode) is a single operator to fvcore and in neither.
    """

    total: int
    layers: dict[str, int]


def count_macs(model: nn.Module, example: Tensor) -> MacsCount:
    """Count the MACs of ``model`` in eval mode on ``example`` (1, 3, H, W), on the device where both are.

    Modules are put back into their modes.
    """
    assert len(example) == 1, f"MACs are per image; the example has {len(example)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts functions on import; torch deprecates that
        from fvcore.nn import FlopCountAnalysis

    with eval_mode(model), torch.no_grad(), _plain_extra_state(model):
        counter = FlopCountAnalysis(model, example)
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = {
            name: sum(int(by_operator[operator]) for operator in _COUNTED)
            for name, by_operator in counter.by_module_and_operator().items()
        }
    layers = {name: counts[name] for name, module in model.named_modules() if isinstance(module, _ConvNd | nn.Linear)}
    return MacsCount(total=counts[""], layers=layers)


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
