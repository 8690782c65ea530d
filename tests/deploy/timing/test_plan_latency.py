"""Layer times and plans of a small network, timed for real."""

import hashlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, RuntimeMissing
from slimsight.compress.files.sealed import read_sealed
from slimsight.compress.gates import CostModel
from slimsight.compress.gates.latency import MULTIPLES
from slimsight.compress.progress import Silent
from slimsight.compress.surgery import PrunePlan, slim_, trace_groups
from slimsight.deploy.settings.latency import LatencyConfig
from slimsight.deploy.timing.plan_latency import TIMING_METHOD, PlanTimer, _processor, check_timing, machine_key
from slimsight.export.runners import Runtime
from slimsight.export.runners.choose import RUNTIMES
from slimsight.export.runners.onnxruntime_session import layers_in_onnxruntime

CONFIG = LatencyConfig(rounds=20, warmup_seconds=0.05)


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def cost(network: nn.Module, images: Tensor) -> CostModel:
    return CostModel.of(network, images[:1], trace_groups(network, images[:1]).groups)


@pytest.fixture
def to_timer(network: nn.Module, images: Tensor, tmp_path: Path) -> Callable[..., PlanTimer]:
    """A timer of the network, whose layer times lie in ``tmp_path``."""

    def to_slim(plan: PrunePlan) -> nn.Module:
        copy = nn.Sequential(*(_again(layer) for layer in network))
        copy.load_state_dict(network.state_dict())
        slim_(copy, plan, images[:1])
        return copy.eval()

    return lambda **options: PlanTimer(network, to_slim, images, CONFIG, tmp_path, **options)


def _again(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
    return nn.Linear(layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else layer


def test_the_original_is_timed_as_a_whole_and_its_layers_alone(
    cost: CostModel, to_timer: Callable[..., PlanTimer], tmp_path: Path
) -> None:
    notes = Notes()
    with to_timer(progress=notes) as timer:
        timed, liked = timer.timed_cost(cost)
    assert "latency" not in cost.resources
    assert timed.totals["macs"] == cost.totals["macs"]
    assert 0 < timed.totals["latency"] < 1000
    assert liked.keys() == set(cost.names)
    assert set(liked.values()) <= set(MULTIPLES)
    few = PrunePlan({"0": tuple(range(8)), "2": tuple(range(8))}, {"0": 32, "2": 64})
    assert timed.amounts(few)["latency"] < 0.7 * timed.totals["latency"]  # a 16th of the MACs
    (file,) = (tmp_path / "layer_times").iterdir()
    assert file.stem == machine_key(CONFIG.threads, CONFIG.batch)
    known = read_sealed(file)["times"]
    assert {"3x3 /1x1 +1x1x1x1 d1x1 @24x24 g1 32-64", "3x3 /1x1 +1x1x1x1 d1x1 @24x24 g1 33-33"} <= known.keys()
    assert notes.said[0].startswith(f"timing {len(known)} layers, once on this machine: ")
    assert notes.said[-1].startswith("latency of the original by the times of its layers: ")


def test_a_busy_machine_does_not_lengthen_what_layers_do_not_take(
    cost: CostModel, to_timer: Callable[..., PlanTimer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole is not timed against layer times of a quieter hour: only shares of one run count."""
    monkeypatch.setattr("slimsight.deploy.timing.plan_latency.layers_share", lambda *_args, **_options: 0.8)
    totals = []
    for _ in range(2):
        with to_timer() as timer:
            timed, _ = timer.timed_cost(cost)
        totals.append(timed.totals["latency"])
    assert totals[0] == totals[1]


def test_layers_timed_before_are_not_timed_again(
    cost: CostModel, to_timer: Callable[..., PlanTimer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with to_timer() as timer:
        first, liked = timer.timed_cost(cost)

    def refuse(*_layers: object, **_options: object) -> None:
        raise AssertionError("every layer is in the file")

    monkeypatch.setattr("slimsight.export.costs.times.time_layers", refuse)
    with to_timer() as timer:
        again, same = timer.timed_cost(cost)
    assert same == liked
    assert again.totals["latency"] == pytest.approx(first.totals["latency"], rel=0.5)  # the share is measured anew
    monkeypatch.setattr("slimsight.deploy.timing.plan_latency.TIMING_METHOD", 10**6)
    with to_timer() as timer, pytest.raises(AssertionError, match="in the file"):
        timer.timed_cost(cost)


def test_plans_for_int8_are_timed_by_integer_kernels_and_by_the_int8_file(
    cost: CostModel, to_timer: Callable[..., PlanTimer], tmp_path: Path
) -> None:
    notes = Notes()
    with to_timer(precision="int8", progress=notes) as timer:
        timed, _ = timer.timed_cost(cost)
        ratio = timer.precision_ratio()
        row = timer.of_plan(PrunePlan({"0": tuple(range(8)), "2": tuple(range(8))}, {"0": 32, "2": 64}))
        folder = timer._file("original").parent
        names = {path.name: int(layers_in_onnxruntime(path).share) for path in folder.iterdir()}
    assert names == {"original.onnx": 0, "slim.onnx": 0, "original.int8.onnx": 1, "slim.int8.onnx": 1}
    assert timed.totals["latency"] > 0
    (file,) = (tmp_path / "layer_times").iterdir()
    assert file.stem == machine_key(1, 1, precision="int8") != machine_key(1, 1)
    assert row.int8_ms is not None
    assert (row.precision, ratio > 0, to_timer().precision_ratio()) == ("fp32", True, 1.0)
    assert any(note.startswith("the original takes ") and note.endswith(" in INT8") for note in notes.said)


def test_a_plan_is_exported_and_timed_beside_the_original(to_timer: Callable[..., PlanTimer]) -> None:
    widths = {"0": 32, "2": 64}
    with to_timer() as timer:
        folder = timer._file("original").parent
        small = timer.of_plan(PrunePlan({"0": tuple(range(8)), "2": tuple(range(8))}, widths))
        large = timer.of_plan(PrunePlan({"0": tuple(range(32)), "2": tuple(range(48))}, widths))
        assert {path.name for path in folder.iterdir()} == {"original.onnx", "slim.onnx"}
    assert not folder.exists()
    assert small.slim_ms.median < 0.7 * small.original_ms.median
    assert large.slim_ms.median > 1.5 * small.slim_ms.median  # 11 times the MACs
    assert (small.threads, small.batch, small.runtime) == (1, 1, "onnxruntime-cpu")


def test_layer_times_hold_for_what_they_were_taken_with(monkeypatch: pytest.MonkeyPatch) -> None:
    key = machine_key(1, 1)
    assert key == machine_key(1, 1)
    others = [machine_key(2, 1), machine_key(1, 8), machine_key(8, 1)]
    monkeypatch.setattr("slimsight.deploy.timing.plan_latency.TIMING_METHOD", 10**6)
    others.append(machine_key(1, 1))
    monkeypatch.setattr("slimsight.deploy.timing.plan_latency._processor", lambda: "another")
    others.append(machine_key(1, 1))
    assert len({key, *others}) == 6


def test_layer_times_of_runtimes_are_kept_apart_and_those_of_earlier_versions_still_hold() -> None:
    assert machine_key(1, 1, "onnxruntime-cpu") == machine_key(1, 1) != machine_key(1, 1, "openvino")
    parts = (_processor(), RUNTIMES["onnxruntime-cpu"].version, "CPUExecutionProvider", "fp32", "1", "1")
    text = "\n".join((*parts, f"method {TIMING_METHOD}"))
    assert machine_key(1, 1) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_runtime_that_cannot_time_is_refused_with_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    check_timing(LatencyConfig(), plans=True)
    monkeypatch.setitem(RUNTIMES, "toy", Runtime("toy", (".onnx",), RUNTIMES["onnxruntime-cpu"].open))
    check_timing(LatencyConfig(runtime="toy"), plans=False)
    for name, plans, words in (
        ("openvin", False, "unknown runtime 'openvin'; did you mean 'openvino'"),
        ("pt2", False, "latency.runtime pt2 opens no ONNX files: choose from onnxruntime-cpu, .*openvino"),
        ("toy", True, "latency.runtime toy does not show the times of single layers, .*: choose from onnxruntime-cpu"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_timing(LatencyConfig(runtime=name), plans=plans)
    if find_spec("openvino"):
        check_timing(LatencyConfig(runtime="openvino:AUTO"), plans=False)
        with pytest.raises(ConfigError, match="openvino:AUTO does not show the times of single layers"):
            check_timing(LatencyConfig(runtime="openvino:AUTO"), plans=True)
        with pytest.raises(RuntimeMissing, match=r"OpenVINO sees no GPU\.9 here"):
            check_timing(LatencyConfig(runtime="openvino:GPU.9"), plans=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissing, match=r"latency.runtime openvino does not run here: .*slimsight\[openvino\]"):
        check_timing(LatencyConfig(runtime="openvino"), plans=False)


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_plans_are_timed_in_openvino_where_the_recipe_says_so(
    cost: CostModel, to_timer: Callable[..., PlanTimer], tmp_path: Path
) -> None:
    with to_timer() as timer:
        timer.config = LatencyConfig(rounds=20, warmup_seconds=0.05, runtime="openvino")
        timed, liked = timer.timed_cost(cost)
        row = timer.of_plan(PrunePlan({"0": tuple(range(8)), "2": tuple(range(8))}, {"0": 32, "2": 64}))
    assert 0 < timed.totals["latency"] < 1000
    assert liked.keys() == set(cost.names)
    assert (row.runtime, row.precision) == ("openvino-cpu", "fp32")
    (file,) = (tmp_path / "layer_times").iterdir()
    assert file.stem == machine_key(1, 1, "openvino")
