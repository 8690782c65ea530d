"""Every Python block of README and docs/ runs as it is written."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import slimsight
from slimsight.compress.config import ExplainerConfig, GatesConfig

from .conftest import SIDE
from .pages import PAGES, blocks, name_of

SHOWN = [(page, block) for page in PAGES for block in blocks(page, "python")]
PARTS = [(page, block) for page, block in SHOWN if not re.match(r"# \S+\.py\n", block)]
FILES = [(page, block) for page, block in SHOWN if re.match(r"# \S+\.py\n", block)]


@pytest.fixture
def here(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project, whose files can be imported, and only meanwhile."""
    monkeypatch.syspath_prepend(str(files))
    before = set(sys.modules)
    yield files
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(files) in str(sys.modules[name].__file__):
            del sys.modules[name]


def presumed(project: Path) -> dict[str, Any]:
    """Names that incomplete blocks use: a trained model, a few images, loaders."""
    my_model = importlib.import_module("my_model")  # the pages' own, written into the folder of the test

    splits = torch.load(project / "digits.pt")
    loaders = [DataLoader(TensorDataset(*splits[name]), 64, shuffle=name == "train") for name in ("train", "val")]
    torch.manual_seed(0)
    model = my_model.build(10)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for images, labels in loaders[0]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    names = {"train_loader": loaders[0], "val_loader": loaders[1], "YourModel": lambda: my_model.build(10)}
    return {"model": model.eval(), "example": splits["val"][0][:4], **names}


@pytest.mark.parametrize(("page", "block"), FILES, ids=[f"{name_of(page)}-{n}" for n, (page, _) in enumerate(FILES)])
def test_a_file(
    page: Path, block: str, here: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """A complete file with its name: it runs, and its tests pass."""
    request.config.addinivalue_line("markers", "slimsight: of the plugin, which this session may lack")
    scope: dict[str, Any] = {"__name__": "shown"}
    exec(compile(block, name_of(page), "exec"), scope)
    for name, test in scope.items():
        if name.startswith("test_") and test.__code__.co_argcount == 0:  # those with fixtures: by pytest, in CI's page
            test()
    if "print(" in block:
        assert "equal: True" in capsys.readouterr().out


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The first call's result for every call."""
    found: list[Any] = []

    def call(*arguments: Any, **options: Any) -> Any:
        if not found:
            found.append(function(*arguments, **options))
        return found[0]

    return call


def test_parts_of_programs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Incomplete blocks run in turn in one scope; their trainings run once, with a short schedule."""
    quick = GatesConfig(steer="rbf", steps=200, batch_size=64)
    explainer = {"predictor": {"epochs": 3, "lr": 1e-3}, "selector": {"epochs": 4, "batch_size": 64}}
    monkeypatch.setattr(slimsight, "learn_gates", once(partial(slimsight.learn_gates, config=quick)))
    monkeypatch.setattr(
        slimsight, "explain", once(partial(slimsight.explain, config=ExplainerConfig.model_validate(explainer)))
    )
    scope = presumed(here)
    for page, block in PARTS:
        exec(compile(block, name_of(page), "exec"), scope)
    assert PARTS
    assert (here / "slim/plan.json").is_file()
    assert scope["slimmed"].macs <= 0.5 * scope["traced"].cost.total
    assert scope["slimmed"].explained is not None
    assert scope["example"].shape[-1] == SIDE
