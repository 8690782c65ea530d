"""A budget file as an assertion."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.testing import assert_budget

MODEL = """
from torch import nn


def build(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MODEL, encoding="utf-8")
    return f"{tmp_path / 'mine.py'}:build"


def test_it_passes_in_silence_and_fails_with_a_line_for_every_limit(model: str, tmp_path: Path) -> None:
    budget = tmp_path / "budget.yaml"
    budget.write_text("macs: 10k\nparams: 1k\n", encoding="utf-8")
    assert_budget(model, budget, x=(3, 8, 8), classes=4)
    budget.write_text("macs: 5k\nparams: 2k\nsize: 1 kB\n", encoding="utf-8")
    with pytest.raises(AssertionError) as failed:
        assert_budget(model, str(budget), x="3x8x8", classes=4)
    head, macs, size = str(failed.value).splitlines()
    assert head == f"{model} against {budget}: 2 of 3 checks failed"
    assert macs.startswith("MACs: 7,808, at most 5,000 allowed, 56.2 % above")
    assert "most MACs: 0 (100 %)" in macs
    assert size.startswith("size of the weights: 1.04 kB, at most 1.00 kB allowed, 4.0 % above")


def test_what_cannot_be_read_is_said_in_a_sentence(model: str, tmp_path: Path) -> None:
    (tmp_path / "budget.yaml").write_text("macs: 10k\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is built from code, which says no size"):
        assert_budget(model, tmp_path / "budget.yaml")
    with pytest.raises(ConfigError, match=r"no budget file at .*absent.yaml"):
        assert_budget(model, tmp_path / "absent.yaml", x="3x8x8")
    with pytest.raises(ConfigError, match="x is '8x8'"):
        assert_budget(model, tmp_path / "budget.yaml", x="8x8")
