from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slimsight.compress.errors import ConfigError
from slimsight.deploy.bench.images import BenchImages
from slimsight.deploy.bench.models import BenchModel
from slimsight.deploy.bench.probe import TrialResult
from slimsight.deploy.bench.sweep import BenchSettings, run_sweep

IMAGES = BenchImages(np.zeros((4, 3, 2, 2), np.uint8), "a test")
CPU = {"onnxruntime-cpu": None, "onnxruntime-cuda": "no CUDA device", "pt2": None, "tensorrt": "not installed"}


def _subject(name: str, *suffixes: str) -> BenchModel:
    return BenchModel(name, f"{name}.onnx", {suffix: Path(name + suffix) for suffix in suffixes})


@pytest.fixture
def bench(fake, clock):
    """``bench([subjects], costs={...})``: what a sweep finds whose models cost so many ms."""

    def call(subjects, costs, *, probe=lambda trial: TrialResult(None, 1000), device=False, **options):
        trials = []

        def counted(trial):
            trials.append((trial.model.name, trial.runtime, trial.threads, trial.batch))
            return probe(trial)

        def opener(path, runtime, threads):
            cost = costs[path.stem, runtime]
            return fake(f"{path.stem} {runtime}", cost, runtime=runtime, device=device)

        given = {"settings": BenchSettings(rounds=50), "fixed_batches": {}, "available": CPU} | options
        found = run_sweep(
            subjects, options.pop("baseline", subjects[0]), IMAGES, probe=counted, opener=opener, clock=clock, **given
        )
        return found, trials

    return call


def test_rows_say_how_fast_and_against_what(bench):
    subjects = [_subject("original", ".onnx"), _subject("slim", ".onnx")]
    costs = {("original", "onnxruntime-cpu"): 4.0, ("slim", "onnxruntime-cpu"): 2.0}
    found, _ = bench(subjects, costs, settings=BenchSettings(batches=(1, 2), rounds=50))
    assert [(row.model, row.batch, row.verdict) for row in found.rows] == [
        ("original", 1, "baseline"),
        ("slim", 1, "faster"),
        ("original", 2, "baseline"),
        ("slim", 2, "faster"),
    ]
    slim = found.rows[3]
    assert (slim.speedup.median, slim.speedup.low, slim.speedup.high) == pytest.approx((2.0, 2.0, 2.0))
    assert (slim.host_ms.median, slim.mean_ms, slim.median_interval_ms) == (2.0, 2.0, pytest.approx((2.0, 2.0)))
    assert slim.images_per_second == pytest.approx(1000.0)
    assert (slim.baseline.model, slim.baseline.runtime, slim.host_memory_bytes) == ("original", "onnxruntime-cpu", 1000)
    assert (slim.sessions, slim.rounds) == (10, 50)
    assert (found.verdict, found.to_dict()["verdict"]) == ("clear", "clear")


def test_what_will_be_timed_and_for_how_long_at_most_is_said_first(bench, notes):
    subjects = [_subject("original", ".onnx"), _subject("slim", ".onnx", ".pt2")]
    costs = {(one.name, runtime): 1.0 for one in subjects for runtime in ("onnxruntime-cpu", "pt2")}
    settings = BenchSettings(batches=(1, 2), rounds=20, sessions=2, seconds=65.0, warmup=5.0)
    bench(subjects, costs, settings=settings, progress=notes)
    # 2 runtimes x 2 points x (65 s + 2 sessions x 5 s of warm-up)
    assert notes.lines[0] == (
        "bench: 2 models in 2 runtimes at 2 points: at most about 5 min 00 s of timing (--seconds 65 for each runtime "
        "and point, --sessions 2)"
    )


def test_what_cannot_run_is_listed_and_the_rest_runs(bench):
    def probe(trial):
        return TrialResult("out of memory") if trial.batch == 8 and trial.model.name == "slim" else TrialResult(None, 1)

    subjects = [_subject("original", ".onnx"), _subject("slim", ".onnx"), _subject("dynamic", ".onnx")]
    costs = {(one.name, "onnxruntime-cpu"): 1.0 for one in subjects}
    found, trials = bench(
        subjects,
        costs,
        probe=probe,
        fixed_batches={"dynamic": 1},
        wanted=("onnxruntime-cpu", "onnxruntime-cuda", "pt2"),
        settings=BenchSettings(batches=(1, 8), rounds=50),
    )
    listed = [(item.model, item.runtime, item.reason, item.batch) for item in found.skipped]
    assert listed[:6] == [
        *[(name, "onnxruntime-cuda", "no CUDA device", None) for name in ("original", "slim", "dynamic")],
        *[(name, "pt2", "there is no .pt2 file of it", None) for name in ("original", "slim", "dynamic")],
    ]
    assert listed[6:] == [
        ("slim", "onnxruntime-cpu", "out of memory", 8),
        ("dynamic", "onnxruntime-cpu", "it takes batches of 1 image, not 8", 8),
    ]
    assert [(row.model, row.batch) for row in found.rows] == [
        ("original", 1),
        ("slim", 1),
        ("dynamic", 1),
        ("original", 8),
    ]
    assert ("dynamic", "onnxruntime-cpu", 1, 8) not in trials  # known beforehand


def test_unasked_only_runtimes_with_a_file_are_tried(bench):
    found, _ = bench([_subject("a", ".onnx")], {("a", "onnxruntime-cpu"): 1.0})
    assert [(item.runtime, item.reason) for item in found.skipped] == [("onnxruntime-cuda", "no CUDA device")]


def test_a_model_of_another_runtime_is_timed_beside_the_baseline(bench, clock):
    subjects = [_subject("original", ".onnx"), _subject("slim", ".pt2")]
    costs = {("original", "onnxruntime-cpu"): 3.0, ("slim", "pt2"): 6.0}
    found, _ = bench(subjects, costs)
    assert [(row.model, row.runtime, row.verdict) for row in found.rows] == [
        ("original", "onnxruntime-cpu", "baseline"),
        ("slim", "pt2", "slower"),
    ]
    assert found.rows[1].speedup.median == pytest.approx(0.5)
    assert (found.rows[1].baseline.model, found.rows[1].baseline.runtime) == ("original", "onnxruntime-cpu")


def test_without_the_baseline_the_first_that_runs_is_named(bench, notes):
    subjects = [_subject("original", ".engine"), _subject("slim", ".onnx"), _subject("other", ".onnx")]
    costs = {("slim", "onnxruntime-cpu"): 2.0, ("other", "onnxruntime-cpu"): 1.0}
    found, _ = bench(subjects, costs, wanted=("tensorrt", "onnxruntime-cpu"), progress=notes)
    assert [(row.model, row.baseline.model) for row in found.rows] == [("slim", "slim"), ("other", "slim")]
    assert "original does not run here: speed-ups refer to slim in onnxruntime-cpu" in notes.lines
    assert ("original", "tensorrt", "not installed") in [(x.model, x.runtime, x.reason) for x in found.skipped]


def test_a_noisy_row_makes_the_verdict_noisy(bench):
    draw = np.random.default_rng(0)
    costs = {("a", "onnxruntime-cpu"): 1.0, ("b", "onnxruntime-cpu"): lambda _: float(draw.lognormal(0, 0.8))}
    found, _ = bench([_subject("a", ".onnx"), _subject("b", ".onnx")], costs)
    assert found.rows[1].verdict == "noisy"
    assert "the interval of the speed-up is" in found.rows[1].noise[0]
    assert found.to_dict()["verdict"] == "noisy"


def test_a_model_against_itself_is_no_different(bench):
    draw = np.random.default_rng(1)
    costs = {(name, "onnxruntime-cpu"): lambda _: float(draw.lognormal(0, 0.02)) for name in "ab"}
    found, _ = bench([_subject("a", ".onnx"), _subject("b", ".onnx")], costs)
    assert found.rows[1].verdict == "no difference"
    assert found.rows[1].speedup.low < 1 < found.rows[1].speedup.high


def test_device_times_stand_beside_the_host_s(bench):
    subjects = [_subject("a", ".onnx"), _subject("b", ".onnx")]
    costs = {("a", "onnxruntime-cpu"): 4.0, ("b", "onnxruntime-cpu"): 1.0}
    found, _ = bench(subjects, costs, device=True)
    assert found.rows[0].device_ms.median == 2.0
    assert found.rows[1].device_speedup.median == pytest.approx(4.0)


def test_when_nothing_runs_one_sentence_says_why(bench):
    with pytest.raises(
        ConfigError, match=r"^nothing can run on this machine: a in onnxruntime-cuda: no CUDA device; c"
    ):
        bench([_subject("a", ".onnx")], {}, wanted=("onnxruntime-cuda",))


def test_unknown_runtimes_are_named(bench):
    with pytest.raises(ConfigError, match=r"unknown runtime 'onnx-cpu'.*choose from: torch, torch-compile, pt2"):
        bench([_subject("a", ".onnx")], {}, wanted=("onnx-cpu",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": (0,)}, "batches 0: give whole numbers from 1 to 65,536"),
        ({"threads": ()}, "threads nothing"),
        ({"seconds": 0.0}, r"seconds is 0\.0: give a number above 0"),
        ({"device": "tpu"}, "device 'tpu': choose from cpu, cuda"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BenchSettings(**options)
