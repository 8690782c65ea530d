"""New statistics for the batch normalisations of a user's model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from slimsight.compress.data import Expected, first_batches
from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.inputs import Packing
from slimsight.compress.parallel.processes import single_process
from slimsight.compress.training import take_statistics_, tracked_norms

from .slim_folder import Slimmed

RECALIBRATE_BATCHES = 50
"""As ``finetune.recalibrate_batches`` of recipes."""


def recalibrate(slimmed: Slimmed | nn.Module, loader: Iterable[Any], *, batches: int = RECALIBRATE_BATCHES) -> int:
    """Set the running statistics of batch normalisation to exact averages over images, in place.

    Running statistics belong to the channels and weights that they were collected with: after surgery, and after
    finetuning with a small momentum or in few steps, they are others', and the accuracy in eval mode is far below the
    model's own. Weights, momenta and modes do not change. Left alone are other kinds of layers, norms that keep no
    statistics, and frozen ones: their weights take no gradient while others of the model do.

    Args:
        slimmed: a slim model, or any model.
        loader: shuffled training images, with labels or without, of which the first ``batches`` are taken.

    Returns:
        The number of batch normalisations with new statistics.

    Raises:
        ConfigError: ``batches`` is not a positive number, or the slim model takes several inputs.
        DataError: the loader yields nothing, or something else than images or (images, labels); a batch has a single
            image where one value per channel arrives; statistics are NaN or infinite. Nothing has changed then.
        ModelError: the model is a program (``load`` without a model), or its batch normalisations are out of reach.
    """
    check_count(batches)
    if isinstance(slimmed, Slimmed):
        refuse_several_inputs(None if isinstance(slimmed.example, Tensor) else Packing.of(slimmed.example))
    model = slimmed.model if isinstance(slimmed, Slimmed) else slimmed
    example = slimmed.example if isinstance(slimmed, Slimmed) else None
    expected = Expected(example.shape[1]) if isinstance(example, Tensor) else None
    norms = tracked_norms(model)
    if not norms and isinstance(model, torch.fx.GraphModule | torch.jit.ScriptModule):
        raise ModelError(
            f"the model is a program ({type(model).__name__}), whose statistics are fixed: recalibrate the slim model "
            "before it is saved, or load it as an instance of its class: slimsight.load(folder, YourModel())"
        )
    if any(parameter.requires_grad for parameter in model.parameters()):
        norms = {name: norm for name, norm in norms.items() if not _is_frozen(norm)}
    if not norms:
        return 0
    with single_process():  # whether or not other processes do the same
        changed = take_statistics_(model, norms, first_batches(loader, batches, expected))
    if not changed:
        raise ModelError(
            f"none of the model's {len(norms)} batch normalisations was called by it: give the module itself, not a "
            "compiled one (torch.compile keeps it as _orig_mod)"
        )
    return changed


def check_count(batches: int) -> None:
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise ConfigError(f"batches is {batches!r}; give the number of batches to take statistics from, 1 or more")


def refuse_several_inputs(packing: Packing | None) -> None:
    """Raise ConfigError for a model that takes several inputs (``packing``): loaders here give images alone."""
    if packing is not None:
        raise ConfigError(
            f"the model takes {len(packing.shapes)} inputs, and a loader here gives images alone: slim it without a "
            "loader and run it in training mode over your own batches, which takes new batch-norm statistics too"
        )


def _is_frozen(norm: nn.Module) -> bool:
    parameters = list(norm.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
