"""One device for all trainings here, whose random numbers are nobody else's."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from slimsight.compress.training import make_fabric


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric(accelerator="cpu")


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    """Whatever these tests do to the generators of this process is undone."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.set_rng_state(kept[2])
