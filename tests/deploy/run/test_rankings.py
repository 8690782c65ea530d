"""Runs by rankings that learn no gates, and with residual streams left whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import slimsight
from slimsight.compress.config import GatesConfig
from slimsight.compress.errors import ConfigError, PruningError
from slimsight.deploy.report import Report

RESIDUAL = """
from torch import nn


class Residual(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.wide, self.back = nn.Conv2d(12, 48, 3, 1, 1), nn.Conv2d(48, 12, 1)
        self.last = nn.Linear(12, classes)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.back(self.wide(x).relu())
        return self.last(x.mean((2, 3)))


def residual(classes):
    return Residual(classes)


class Stream(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.more, self.last = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 1), nn.Linear(12, classes)

    def forward(self, x):
        x = self.stem(x)
        return self.last((x + self.more(x)).mean((2, 3)))


def stream(classes):
    return Stream(classes)
"""

Run = Callable[..., Report]


@pytest.fixture
def run(rerun: Run, plain: tuple[str, ...], tmp_path: Path) -> Run:
    """``run(out, "a.b=c", ...)``: the residual network, one epoch."""
    (tmp_path / "residual.py").write_text(RESIDUAL, encoding="utf-8")
    quick = (*plain, "model.train.epochs=1", "export.formats=[onnx]", "latency.rounds=20")
    model = f"model.name={tmp_path / 'residual.py'}:residual"
    return lambda out, *overrides: rerun(tmp_path / out, *quick, model, *overrides)


def narrowed(report: Report) -> dict[str, int]:
    return {row.group: row.kept for row in report.channels if row.kept < row.total}


@pytest.mark.usefixtures("undrawn")
def test_a_run_ranks_by_taylor_and_leaves_streams_whole(run: Run) -> None:
    report = run("inner", "gates.steer=taylor", "gates.scope=inner", "gates.batch_size=64")
    assert list(narrowed(report)) == ["net.wide"]
    assert report.gates is not None
    assert report.gates.steer == "taylor"
    assert report.slim.macs <= 0.5 * report.original.macs
    assert report.exactness.gated_vs_slim_max_rel < 1e-5

    auto = run("auto", "gates.steer=taylor", "gates.scope=auto", "gates.batch_size=64")
    assert narrowed(auto) == narrowed(report)
    assert "net.stem" in narrowed(run("all", "gates.steer=taylor", "gates.batch_size=64"))


@pytest.mark.usefixtures("undrawn")
def test_what_decides_a_ranking_is_in_its_fingerprint(run: Run) -> None:
    def redone(*overrides: str) -> list[str]:
        return [stage.name for stage in run("one", *overrides).stages if not stage.reused]

    redone("gates.steer=taylor")
    assert redone("gates.steer=taylor", "gates.steps=30", "gates.temperature=0.5") == []  # of learned gates only
    assert redone("gates.steer=taylor", "gates.images=100")[0] == "gates"
    assert redone("gates.steer=taylor", "gates.images=100", "gates.scope=inner")[0] == "gates"
    assert redone("gates.steer=random", "gates.scope=inner")[0] == "gates"


@pytest.mark.usefixtures("undrawn")
def test_inner_needs_channels_inside_of_blocks(run: Run, tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"has nothing to prune \(.*net.stem: a residual stream, left whole"):
        run("stream", f"model.name={tmp_path / 'residual.py'}:stream", "gates.scope=inner")


def test_the_api_leaves_streams_whole_and_ranks_by_taylor() -> None:
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(RESIDUAL, scope)
    model, images = scope["residual"](10), torch.randn(24, 3, 8, 8)
    loader = DataLoader(TensorDataset(images, torch.arange(24) % 10), 8)
    traced = slimsight.trace(model, images[:2], scope="inner")
    scores = slimsight.learn_gates(traced, loader, config=GatesConfig(steer="taylor", batch_size=8))
    assert list(scores) == ["wide"]
    assert scores["wide"].mean() == pytest.approx(1)
    slimmed = slimsight.slim(traced, slimsight.select(traced, scores, macs=0.5), loader)
    assert slimmed.model.stem.out_channels == 12
    assert slimmed.macs <= 0.5 * traced.cost.total
    assert all(parameter.grad is None for parameter in traced.model.parameters())
    with pytest.raises(ConfigError, match="give it to trace"):
        slimsight.learn_gates(traced, loader, config=GatesConfig(steer="taylor", scope="inner"))
    with pytest.raises(ConfigError, match="the scope is 'outer'; allowed: 'all' and 'inner'"):
        slimsight.trace(model, images[:2], scope="outer")
