import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from slimsight.deploy.report import write_report
from slimsight.deploy.report.canvas import draw_strip, show
from slimsight.deploy.report.files import Strip, write_strips
from slimsight.deploy.report.html import RunPage, read_page
from slimsight.deploy.report.schema import Report

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&"
LONG = "a_model_whose_name_goes_on_and_on_without_a_single_blank_" * 3

_MAPS = {
    "images": 5000,
    **{
        name: {"mean": mean, "standard_error": 0.01, "images": 4990}
        for name, mean in (("center_px", 1.2), ("region_iou", 0.7), ("spearman", 0.9), ("kl", 0.2), ("moved", 0.05))
    },
    "lost": 0.002,
    "degenerate": {"original": {"constant": 3, "zero": 0}, "slim": {"constant": 7, "zero": 0}},
    "worst": [{"index": 17, "center_px": 9.0, "region_iou": 0.1, "moved": True}],
}
_DYNAMIC = {
    "macs_max": 20.6e6,
    "macs_mean": 19.1e6,
    "val_accuracy": 0.86,
    "test_accuracy": 0.855,
    "masks": [2, 3],
    "branches": 12,
    "route_agreement": 1.0,
    "verification": {
        "images": 50,
        "accepted": 0.61,
        "macs": 19.2e6,
        "macs_with_dense": 25e6,
        "accuracy": 0.82,
        "accuracy_with_dense": 0.84,
        "routes": [
            {
                "route": "net.layer1.0.conv2",
                "bits_per_pixel": 0.1,
                "bits_per_channel": 12.0,
                "channels": 6.5,
                "open_channels": 8.0,
                "covered": 0.9,
                "accepted": 0.8,
            }
        ],
    },
}


@functools.cache
def _picture() -> bytes:
    def draw(cells: Sequence[Axes]) -> None:
        for cell in cells:
            show(cell, np.full((24, 32, 3), 0.6))

    return draw_strip(3, (24, 32), draw)


@pytest.fixture
def newest(content: dict[str, Any]) -> dict[str, Any]:
    """A report with every figure that there is, among them names that want to be code or wider than a phone."""
    found = copy.deepcopy(content)
    found["model"]["name"] = HOSTILE
    found["recipe"] = f"{LONG}.yaml"
    found["device"] = f"GPU {HOSTILE}"
    found["exactness"]["frozen_groups"] = [
        {"name": "net.linear", "reason": f"its channels are the output {HOSTILE}"},
        {"name": LONG, "reason": LONG},
    ]
    found["channels"].append({"group": LONG, "total": 1280, "kept": 1280})
    found["channels"] += [{"group": f"net.layer{k}.conv", "total": 64, "kept": 64 - k} for k in range(30)]
    steps = list(range(10, 601, 10))
    found["gates"]["history"] = {
        "step": steps,
        "macs": [1 - step / 1200 for step in steps],
        "target": [max(0.5, 1 - step / 700) for step in steps],
        "ce": [step / 600 for step in steps],
        "residual": [0.0 for _ in steps],
        "steer": [2 * step / 600 for step in steps],
    }
    row = found["latency"][0]
    row["dynamic_ms"] = {"median": 0.407, "p90": 0.5, "p99": 0.6}
    percent = [0.0, 1.0, 50.0, 90.0, 99.0, 100.0]
    row["percentiles_ms"] = {
        "percent": percent,
        "original": [0.7, 0.75, 0.814, 0.85, 1.234, 9.0],
        "slim": [0.45, 0.47, 0.521, 0.54, 0.81, 3.0],
        "dynamic": [0.35, 0.36, 0.407, 0.5, 0.6, 2.0],
    }
    found["parity"][0]["median_abs"] = 1e-7
    found["parity"].append(found["parity"][1] | {"max_abs": 0.0, "p99_abs": 0.0, "batch": 64})
    found["parity"].append(
        found["parity"][1] | {"max_abs": None, "p99_abs": None, "passed": False, "precision": "fp16"}
    )
    found["saliency"]["maps"] = _MAPS
    found["dynamic"] = _DYNAMIC
    check = found["verdict"]["checks"][0]
    late = {"name": HOSTILE, "limit": 1.3, "value": None, "passed": False, "bound": "min", "unit": "times"}
    found["verdict"] = {"passed": False, "checks": [check, {**late, "reason": f"{HOSTILE} {LONG}"}]}
    return found


@pytest.fixture
def oldest(content: dict[str, Any]) -> dict[str, Any]:
    """A report with what every version wrote, and nothing else."""
    found = copy.deepcopy(content)
    for key in ("model", "data", "gated", "gates", "saliency", "channels", "parity", "latency", "stages"):
        del found[key]
    found["versions"] = {}
    found["exactness"]["frozen_groups"] = []
    found["original"]["test_accuracy"] = found["slim"]["test_accuracy"] = None
    return found


@pytest.fixture
def to_folder(tmp_path: Path) -> Callable[..., Path]:
    """``to_folder(name, content, recipe)``: a run directory with that report and, where it has an explainer, strips."""

    def write(name: str, content: dict[str, Any], recipe: str | None = "seed: 0\ngates: {steer: rbf}\n") -> Path:
        root = tmp_path / name
        report = Report.model_validate(content)
        write_report(root / "report.json", report)
        if recipe is not None:
            (root / "recipe.yaml").write_text(recipe, encoding="utf-8")
        if report.saliency is not None:
            for kind in ("explained", "drifted"):
                strip = Strip(
                    file=f"{kind}-01.webp",
                    title=f"true class: {HOSTILE}",
                    lines=("image 17", "original: cat", f"slim: {LONG}"),
                    wrong=kind == "drifted",
                    columns=("image", "original", "slim"),
                )
                write_strips(root, kind, [(strip, _picture())])
        return root

    return write


@pytest.fixture
def newest_page(newest: dict[str, Any], to_folder: Callable[..., Path]) -> RunPage:
    return read_page(to_folder("newest", newest))


@pytest.fixture
def oldest_page(oldest: dict[str, Any], to_folder: Callable[..., Path]) -> RunPage:
    return read_page(to_folder("oldest", oldest, None))
