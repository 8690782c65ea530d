"""Validation of latency measurement: a model against itself, and against itself slowed down by 5 %.

    .venv/bin/python benchmarks/latency_lab.py [--seconds 280] [--fresh]

ResNet-20 for 32 x 32 images (random weights) in ONNX Runtime, one thread, batch 1, with the settings that `slimsight
bench` has by default. Every repeat is a measurement of its own: files opened anew, warm-up, orders and resamples drawn
by its own seed.

- `same`: two runners of one file. The 95 % interval of the speed-up should contain 1.
- `one_opening`: the same with all rounds in one session, as an interval over rounds alone sees it.
- `slowed`: the second runner does arithmetic inside its call that takes 5 % of the model's time (calibrated against it
  in turn, so that both change alike with the machine's speed). The interval should lie below 1.
- `bench`: what the command says on this machine of the same network as ONNX file, pt2 file and engine of TensorRT for
  RTX (which builds without a GPU and runs on one only), asked for every runtime.

Stops after --seconds; the same command goes on. Rows go to results/latency_lab.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.config import ModelConfig
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.models import build_classifier
from slimsight.deploy.bench import BenchSettings, run_bench
from slimsight.deploy.machine import describe_machine, machine_state, steal_share, versions
from slimsight.deploy.timing.rounds import time_sessions
from slimsight.deploy.timing.statistics import speedup_noise, to_quantiles, to_speedup
from slimsight.export.pt2.export import export_pt2
from slimsight.export.runners import OnnxRunner
from slimsight.export.runners.choose import RUNTIMES
from slimsight.export.tensorrt_build.export import export_engine
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "latency_lab.json"
SLOWER = 0.05
SIDE = 32
IMAGES = 512
STUDIES = {"same": 40, "one_opening": 20, "slowed": 20}
"""Repeats of each."""


Row = dict[str, Any]


class Slowed(OnnxRunner):
    """An ONNX file whose calls also do ``units`` of arithmetic; ``extra_ms`` keeps what each call's took."""

    def __init__(self, path: Path, units: int) -> None:
        super().__init__(path)
        self.units = units
        self.extra_ms: list[float] = []
        self._values = np.linspace(0, 1, 512, dtype=np.float32)
        self._out = np.empty_like(self._values)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = super()._run(images)
        start = time.perf_counter_ns()
        for _ in range(self.units):
            np.multiply(self._values, self._values, out=self._out)
        self.extra_ms.append((time.perf_counter_ns() - start) / 1e6)
        return logits


def calibrate_units(path: Path, images: NDArray[np.uint8]) -> int:
    """Units of work that take ``SLOWER`` of the model's time."""
    units, settings = 70, BenchSettings()
    runners = {"model": OnnxRunner(path), "slowed": Slowed(path, units)}
    found = time_sessions(
        runners, images, sessions=4 * settings.sessions, rounds=4 * settings.rounds, warmup=settings.warmup, seed=0
    )
    share = _measured_slowdown(runners["slowed"], found.timings["model"].host)
    assert share is not None
    return round(SLOWER / share * units)


def measure(study: str, repeat: int, path: Path, images: NDArray[np.uint8], units: int) -> Row:
    """One measurement."""
    settings = BenchSettings()
    other = Slowed(path, units) if study == "slowed" else OnnxRunner(path)
    before = machine_state()
    measured = time_sessions(
        {"model": OnnxRunner(path), "other": other},
        images,
        sessions=1 if study == "one_opening" else settings.sessions,
        rounds=settings.rounds,
        warmup=settings.warmup,
        seconds=settings.seconds,
        seed=repeat,
    )
    times, again = (measured.timings[name].host for name in ("model", "other"))
    found = to_speedup(times, again, seed=repeat)
    after = machine_state()
    return {
        "study": study,
        "repeat": repeat,
        "speedup": found.median,
        "low": found.low,
        "high": found.high,
        "width": found.width,
        "noise": list(speedup_noise(times, again, found)),
        "median_ms": to_quantiles(times).median,
        "p90_ms": to_quantiles(times).p90,
        "warm": measured.warm,
        "slowed_by": _measured_slowdown(other, times),
        "load_average": before["load_average"][0],
        "stolen": steal_share(before, after),
    }


def _measured_slowdown(runner: OnnxRunner, times: tuple[NDArray[np.float64], ...]) -> float | None:
    """What the work in the calls really took, as a share of the model's time."""
    if not isinstance(runner, Slowed):
        return None
    return float(np.median(runner.extra_ms)) / to_quantiles(times).median


def main() -> None:
    """Measure what is missing, as long as there is time, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=280.0, help="begin no further measurement after this time")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    given = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(1)
    kept: Row = {} if given.fresh or not RESULTS.exists() else read_json(RESULTS)
    rows = {(row["study"], row["repeat"]): row for row in kept.get("rows", [])}
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path, pt2 = Path(folder) / "resnet20.onnx", Path(folder) / "resnet20.pt2"
        torch.manual_seed(0)
        model = build_classifier(ModelConfig(name="resnet20"), 10).eval()
        export_onnx(model, torch.rand(2, 3, SIDE, SIDE), path)
        export_pt2(model, torch.rand(2, 3, SIDE, SIDE), pt2)
        units = kept.get("units") or calibrate_units(path, images)

        def write(bench: Row | None) -> None:
            ordered = [rows[key] for key in sorted(rows, key=lambda key: (list(STUDIES).index(key[0]), key[1]))]
            found = {
                "schema": 1,
                "machine": describe_machine(),
                "versions": versions(),
                "units": units,
                "rows": ordered,
            }
            write_json(RESULTS, found | ({"bench": bench} if bench is not None else {}))

        bench = kept.get("bench")
        if bench is None:
            engine = Path(folder) / "resnet20.engine"
            export_engine(path, engine, flavour="tensorrt-rtx")
            bench = run_bench(
                [path, pt2, engine], runtimes=tuple(RUNTIMES), settings=BenchSettings(batches=(1, 8))
            ).to_dict()
            write(bench)
        for repeat in range(max(STUDIES.values())):
            for study, repeats in STUDIES.items():
                if repeat >= repeats or (study, repeat) in rows:
                    continue
                if time.monotonic() - started > given.seconds:
                    print(f"{len(rows)} of {sum(STUDIES.values())} measurements; run again to go on")
                    return
                rows[study, repeat] = measure(study, repeat, path, images, units)
                write(bench)
    _print_summary(list(rows.values()))


def _print_summary(rows: list[Row]) -> None:
    tests: dict[str, Callable[[Row], bool]] = {
        "same": lambda row: row["low"] <= 1 <= row["high"],
        "one_opening": lambda row: row["low"] <= 1 <= row["high"],
        "slowed": lambda row: row["high"] < 1,
    }
    for study, holds in tests.items():
        mine = [row for row in rows if row["study"] == study]
        widths = [row["width"] for row in mine]
        print(
            f"{study}: as it should be in {sum(map(holds, mine))} of {len(mine)}; interval "
            f"{100 * np.median(widths):.2f} % wide (median), {100 * max(widths):.2f} % at most; "
            f"{sum(bool(row['noise']) for row in mine)} noisy"
        )


if __name__ == "__main__":
    main()
