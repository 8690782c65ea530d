"""Checkpointable state of a model and of the random generators, and a check for non-finite weights."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import TrainingError


class ModelState:
    """State of a module: parameters, buffers, and the training mode of each submodule."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        modes = {name: module.training for name, module in self._model.named_modules()}
        return {"tensors": dict(self._model.state_dict()), "training": modes}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._model.load_state_dict(state["tensors"])
        for name, module in self._model.named_modules():
            module.training = state["training"][name]


class RandomState:
    """State of the global random generators: torch's on CPU and ``device``, NumPy's and Python's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def state_dict(self) -> dict[str, Any]:
        name, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
        state = {
            "torch": torch.get_rng_state(),
            "numpy": [name, torch.from_numpy(np.asarray(words, dtype=np.int64)), *rest],
            "python": random.getstate(),
        }
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        torch.set_rng_state(state["torch"])
        name, words, *rest = state["numpy"]
        np.random.set_state((name, words.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        random.setstate(state["python"])
        if "cuda" in state and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)


def check_finite(what: str, step: int, model: nn.Module) -> None:
    """Refuse to save a model with a weight that is NaN or infinite.

    Raises:
        TrainingError: names the training ``what`` and the parameter.
    """
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise TrainingError(
                f"{what}: training diverged, {name} is not finite after step {step}; lower its learning rate and run "
                "again"
            )
