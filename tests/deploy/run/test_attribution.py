"""Every run compares what original and slim model look at, with and without an explainer of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimsight.deploy.report import Report
from slimsight.deploy.run.images import RunImages

Run = Callable[..., Report]


def test_a_run_with_an_explainer_has_it_too(finished: Any) -> None:
    looks = finished.report.attribution
    assert looks.explainer == "grad_cam"
    assert looks.images == min(256, finished.report.data.val)
    assert 0 < looks.chance.mean < looks.region_iou.mean < 1
    assert looks.share.mean == pytest.approx((1 - looks.region_iou.mean) / (1 - looks.chance.mean), abs=0.02)
    assert looks.share.standard_error > 0
    assert looks.reason is None


@pytest.mark.usefixtures("undrawn")
def test_pages_show_it_where_no_explainer_was_trained(rerun: Run, plain: tuple[str, ...], tmp_path: Path) -> None:
    report = rerun(tmp_path, *plain, "model.train.epochs=1", "export.formats=[onnx]", "latency.rounds=20")
    assert report.saliency is None
    assert report.attribution is not None
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for words in ("## What the models look at", "the same between different images: chance", "Grad-CAM steers nothing"):
        assert words in text
    page = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\xa0", " ")
    assert "what it looks at moved" in page
    assert "way gone from no change (0 %) to chance (100 %)" in page
    assert "nothing is known of what its models look at" not in page


@pytest.mark.usefixtures("undrawn")
def test_why_nothing_was_compared(
    rerun: Run, plain: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "flat.py"
    model.write_text(
        "from torch import nn\n\n\ndef flat(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, classes))\n",
        encoding="utf-8",
    )
    quick = (*plain, f"model.name={model}:flat", "model.train.epochs=1", "export.formats=[onnx]", "latency.rounds=20")
    report = rerun(tmp_path / "flat", *quick)
    assert report.attribution is not None
    assert report.attribution.region_iou is None
    assert "grad_cam" in (report.attribution.reason or "")
    text = (tmp_path / "flat" / "report.md").read_text(encoding="utf-8")
    assert "What the models look at was not compared by Grad-CAM: " in text

    several = RunImages.some_images
    monkeypatch.setattr(RunImages, "some_images", lambda self, count: several(self, 1 if count == 256 else count))
    alone = rerun(tmp_path / "alone", *plain, "model.train.epochs=1", "export.formats=[onnx]", "latency.rounds=20")
    assert alone.attribution is not None
    assert alone.attribution.reason == "there is one validation image"
