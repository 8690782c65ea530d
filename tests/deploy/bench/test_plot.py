from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from slimsight.deploy.bench.plot import draw_bench
from slimsight.deploy.bench.result import BenchResult, BenchRow, SpeedupReference
from slimsight.deploy.timing.statistics import Quantiles, Speedup

ROW = BenchRow(
    model="original",
    file="original.onnx",
    runtime="onnxruntime-cpu",
    precision="fp32",
    macs=40e6,
    test_accuracy=0.9,
    threads=1,
    batch=1,
    sessions=10,
    rounds=400,
    warm=True,
    host_ms=Quantiles(2.0, 2.2, 3.0),
    mean_ms=2.1,
    median_interval_ms=(1.9, 2.1),
    drift=0.0,
    images_per_second=476.0,
    device_ms=None,
    host_memory_bytes=10**7,
    device_memory_bytes=None,
    baseline=SpeedupReference("original", "onnxruntime-cpu"),
    speedup=None,
    device_speedup=None,
    speedup_drift=None,
    verdict="baseline",
    noise=(),
)
SLIM = replace(ROW, model="slim", host_ms=Quantiles(1.0, 1.1, 2.0), speedup=Speedup(2.0, 1.9, 2.1), verdict="faster")


def _draw(path: Path, *rows: BenchRow) -> Image.Image:
    result = BenchResult(
        created="2026-01-01T00:00:00+00:00",
        seed=0,
        baseline="original",
        images={"source": "a test", "count": 1, "size": [8, 8]},
        settings={"rounds": 400},
        versions={},
        machine={"processor": "a CPU"},
        runtimes={},
        rows=rows,
        skipped=(),
    )
    draw_bench(result, path)
    with Image.open(path) as picture:
        return picture.convert("RGB")


def test_a_picture_has_a_line_per_row_and_point(tmp_path: Path) -> None:
    two = _draw(tmp_path / "two.png", ROW, SLIM)
    four = _draw(tmp_path / "four.png", ROW, SLIM, *(replace(row, batch=64) for row in (ROW, SLIM)))
    assert two.width == four.width == 1400
    assert four.height - two.height == 3 * 34  # two rows and their heading


def test_marks_of_noisy_rows_are_hollow(tmp_path: Path) -> None:
    filled = _draw(tmp_path / "a.png", ROW, SLIM)
    hollow = _draw(tmp_path / "b.png", ROW, replace(SLIM, noise=("wide",)))
    red = (193, 18, 31)

    def count(picture: Image.Image) -> int:
        return sum(number for number, colour in picture.getcolors(2**20) or [] if colour == red)

    assert count(hollow) < 0.6 * count(filled)
