"""Adoption: a stranger's network becomes our own copy, of plain layers with plain float32 weights, on the CPU.

Everything that slims or counts a network takes it through here: the Python API, the stages of a run, inspect and check.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from lightning_fabric.wrappers import is_wrapped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from ..errors import ModelError
from ..modules import copy_of
from .user_code import UserCode

_NORMS: dict[type[nn.Module], type[_BatchNorm]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
}
"""The batch normalisation that follows a layer; ``BatchNorm2d`` after any other."""

_WRAPPERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)
_NAMED = 3


@dataclass(frozen=True)
class Adopted:
    """Our copy of a network, and what of it is no longer as it was given: a sentence each."""

    model: nn.Module
    changes: tuple[str, ...]


def adopt(model: nn.Module) -> Adopted:
    """Copy ``model`` and make it plain: wrappers off, computed weights folded, float32, on the CPU.

    - ``DataParallel``, ``DistributedDataParallel``, Fabric's and ``torch.compile``'s wrappers, ``AveragedModel``: what
      is inside of them, also where they wrap a part of the model.
    - ``weight_norm``, ``spectral_norm``, ``orthogonal`` and other parametrizations, masks of ``torch.nn.utils.prune``:
      the weight that they compute becomes the parameter.
    - ``SyncBatchNorm``: the batch normalisation that it is in one process.
    - half, bfloat16, double: float32.

    The train and eval modes of all modules are kept; ``model`` is not changed.

    Raises:
        ModelError: it is no ``nn.Module``, it is TorchScript or a program of ``torch.export``, it has no values (lazy
            layers, meta tensors), it cannot be copied, or a layer has a weight that something else computes.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; give a torch.nn.Module that maps images to logits")
    model = unwrap(model)
    _refuse_what_cannot_be_copied(model)
    changes = _list_dtypes(model)
    ours = _copy(model).cpu()
    changes += _fold_(ours)
    ours, converted = _convert_sync_norms(ours)
    _refuse_computed_weights(ours)
    return Adopted(ours.float(), (*changes, *converted))


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of wrappers that compute the same as it does; ``model`` itself without any."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    inner = getattr(module, "_orig_mod", None)  # torch.compile's, first: Fabric fails on one that it did not see made
    if inner is None and (isinstance(module, _WRAPPERS) or is_wrapped(module)):
        inner = module.module
    return inner if isinstance(inner, nn.Module) else None


def _refuse_what_cannot_be_copied(model: nn.Module) -> None:
    for name, module in model.named_modules():
        label = f"the model's '{name}'" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{label} is a TorchScript module ({type(module).__name__}), whose layers are fixed: give the "
                "torch.nn.Module that it was scripted or traced from"
            )
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            raise ModelError(
                f"{label} has quantized weights ({type(module).__name__}), which cannot be cut: give the model as it "
                "was before it was quantized"
            )
        if isinstance(module, torch.fx.GraphModule) and ("_guards_fn" in module._modules or "eval" in vars(module)):
            raise ModelError(
                f"{label} is a program of torch.export, whose layers are fixed: give the torch.nn.Module that it was "
                "exported from"
            )
        forward = vars(module).get("forward")
        if (
            _inside(module) is None
            and isinstance(forward, FunctionType)
            and not isinstance(_compiled(forward), MethodType)
        ):
            raise ModelError(
                f"forward() of {label} was replaced by the function '{forward.__name__}', which would still call the "
                "layers of the original in a copy: define a class with this forward()"
            )
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise ModelError(
                f"the model's '{name}' has no shape yet (a lazy layer): run the model once on an image, then hand it "
                "over"
            )
        if tensor.is_meta:
            raise ModelError(f"the model's '{name}' is on the meta device, without values: load its weights first")


def _compiled(forward: Any) -> Any:
    """The method that ``torch.compile`` was given; None for any other function."""
    return inspect.unwrap(forward) if hasattr(forward, "_torchdynamo_orig_callable") else None


def _copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without wrappers inside of it and without compiled methods."""
    memo: dict[int, Any] = {}
    modules = list(model.modules())
    try:
        for module in reversed(modules):  # the innermost first: a wrapper may be around others
            if (inner := unwrap(module)) is not module:
                memo[id(module)] = copy_of(inner, memo)
        ours = copy_of(model, memo)
    except Exception as error:  # an attribute may raise anything when it is copied
        raise ModelError(
            f"the model cannot be copied: {_uncopyable(model) or error}; take it out of the model, or create it in "
            "forward()"
        ) from error
    for module in ours.modules():
        method = _compiled(vars(module).get("forward"))
        if isinstance(method, MethodType):
            vars(module)["forward"] = MethodType(method.__func__, module)
    return ours


def _uncopyable(model: nn.Module) -> str | None:
    """The attribute that cannot be copied, and its type."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy_of(value)
            except Exception:  # noqa: BLE001 - whatever it raises, this is the one
                return f"its '{name + '.' if name else ''}{key}' is a {type(value).__name__}, which has no copy"
    return None


def _list_dtypes(model: nn.Module) -> tuple[str, ...]:
    tensors = itertools.chain(model.parameters(), model.buffers())
    other = sorted({str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype != torch.float32})
    return (f"weights of {' and '.join(other)} are taken as torch.float32",) if other else ()


def _fold_(model: nn.Module) -> tuple[str, ...]:
    """Replace every computed weight by its present value; a sentence about each kind of them."""
    found: dict[str, list[str]] = {}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # in training mode, spectral norm changes with every look at the weight
    with UserCode("a computed weight of the model (parametrization, weight norm, mask) cannot be folded"):
        for name, module in list(model.named_modules()):
            for kind, tensor in [*_fold_parametrizations_(module), *_fold_hooks_(module)]:
                found.setdefault(kind, []).append(f"{name}.{tensor}".removeprefix("."))
    for module, training in modes:
        module.training = training
    return tuple(
        f"{kind}: the weights that it computes are taken as plain weights ({_listed(names)}), and finetuning is no "
        "longer bound by it"
        for kind, names in found.items()
    )


def _fold_parametrizations_(module: nn.Module) -> Iterator[tuple[str, str]]:
    if not parametrize.is_parametrized(module):
        return
    # A copy shares its class, with the properties that compute its weights, with what it is a copy of.
    shared = type(module)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)
    parametrized = {name: list(steps) for name, steps in module.parametrizations.items()}  # type: ignore[operator, union-attr]
    for tensor, steps in parametrized.items():
        kinds = " and ".join(dict.fromkeys(type(step).__name__.lstrip("_") for step in steps))
        originals = list(module.parametrizations[tensor].parameters())  # type: ignore[index, union-attr]
        trainable = any(original.requires_grad for original in originals)
        for original in originals:
            original.requires_grad_(True)  # torch makes a buffer of a frozen weight
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
        module.get_parameter(tensor).requires_grad_(trainable)
        yield kinds, tensor


def _fold_hooks_(module: nn.Module) -> Iterator[tuple[str, str]]:
    """The forms that compute a weight in a hook before each forward pass."""
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
            yield "weight_norm", hook.name
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
            yield "spectral_norm", hook.name
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
            yield "masks of torch.nn.utils.prune", hook._tensor_name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _convert_sync_norms(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """``model`` with plain batch normalisations in place of ``SyncBatchNorm``, with the same tensors."""
    plain: dict[nn.Module, nn.Module] = {}
    before: type[nn.Module] = nn.Module
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            plain[module] = _plain_norm(module, _NORMS.get(before, nn.BatchNorm2d))
        elif isinstance(module, _ConvNd | nn.Linear):
            before = type(module)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in plain:
                parent._modules[name] = plain[child]
    changes = (f"{len(plain)} SyncBatchNorm are taken as plain batch normalisations",) if plain else ()
    return plain.get(model, model), changes


def _plain_norm(norm: nn.SyncBatchNorm, kind: type[_BatchNorm]) -> _BatchNorm:
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    plain._parameters, plain._buffers, plain.training = norm._parameters, norm._buffers, norm.training
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        setattr(plain, hooks, getattr(norm, hooks))
    return plain


def _refuse_computed_weights(model: nn.Module) -> None:
    """Raise ModelError for a layer whose weight is no parameter: surgery would cut what the next pass overwrites."""
    for name, module in model.named_modules():
        if not isinstance(module, _ConvNd | nn.Linear | _NormBase) or "weight" in module._parameters:
            continue
        if isinstance(getattr(module, "weight", None), Tensor):
            raise ModelError(
                f"the weight of {type(module).__name__} '{name}' is no parameter: something computes it before each "
                "forward pass, and surgery cannot cut it; store the computed weight as the layer's parameter"
            )
