"""README's Python flow on a real pretrained network and photographs, where they are."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import slimsight

ROOT = Path(__file__).resolve().parents[2]


def test_new_statistics_give_a_pretrained_network_its_accuracy_back(
    images_dir: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EfficientNet-Lite0 at 90 % of its MACs: at chance (ten classes) with the original's statistics."""
    pytest.importorskip("timm", reason="the model is timm's")
    for file in (images_dir / "clothing.tar", weights_dir / "efficientnet_lite0_clothing.safetensors"):
        if not file.is_file():
            pytest.skip(f"{file} is absent")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("recalibration")
    shared = images_dir.parent
    train, test = script.photographs("train", 64, 192, shared), script.photographs("test", 64, 186, shared)
    gates = slimsight.GatesConfig(steer="magnitude")
    found = script.measure(script.network(shared), train, test, gates, 0.9, 0)
    assert 0.89 <= found["macs_kept"] <= 0.9
    assert found["original"] > 0.33  # .371; so small a side costs it half of its accuracy
    assert found["slim"] < 0.15  # .097
    assert found["slim_recalibrated"] > 0.22  # .269
