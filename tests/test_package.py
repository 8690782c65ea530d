"""``import slimsight``: quick, complete, and made of objects that pickle."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import nn

import slimsight
from slimsight.compress.errors import Damaged


def python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_it_takes_no_time_and_no_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); import slimsight;"
        "print(time.process_time() - start, *sorted({'torch', 'numpy', 'pydantic', 'typer'} & sys.modules.keys()))"
    )
    (seconds,) = python(code)
    assert float(seconds) < 0.1


def test_its_names_are_the_ones_it_lists() -> None:
    assert dir(slimsight) == sorted(slimsight.__all__)
    assert slimsight.__version__ == version("slimsight")
    assert slimsight.testing.assert_macs.__module__.startswith("slimsight.")
    everything: dict[str, Any] = {}
    exec("from slimsight import *", everything)
    assert set(slimsight.__all__) <= everything.keys()
    with pytest.raises(AttributeError, match="module 'slimsight' has no attribute 'prune'"):
        _ = slimsight.prune


def test_a_star_import_before_anything_else() -> None:
    assert python("from slimsight import *; print(trace.__name__, testing.__name__)") == ["trace", "slimsight.testing"]


def test_what_it_gives_can_be_pickled() -> None:
    """To worker processes and back, and errors out of them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    images = torch.rand(4, 3, 8, 8)
    traced = slimsight.trace(model, images)
    scores = {group.name: torch.rand(group.channels) for group in traced.graph.groups}
    plan = slimsight.select(traced, scores, macs=0.8)
    slimmed = slimsight.slim(traced, plan)
    assert pickle.loads(pickle.dumps(plan)) == plan
    torch.testing.assert_close(pickle.loads(pickle.dumps(slimmed)).model(images), slimmed.model(images))
    again = pickle.loads(pickle.dumps(traced))
    assert slimsight.select(again, scores, macs=0.8) == plan
    for config in (slimsight.GatesConfig(steps=20), slimsight.ExplainerConfig(target_area=0.3)):
        assert pickle.loads(pickle.dumps(config)) == config


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(Damaged("model.onnx", "was cut off", "export again")))
    assert (str(error), error.path) == ("model.onnx was cut off; export again", "model.onnx")
    assert str(pickle.loads(pickle.dumps(slimsight.SlimError("too much")))) == "too much"
