"""Runtimes of other packages: a toy takes part in parity, INT8 proofs and bench; broken ones stop nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimsight.compress.errors import ExportError, RuntimeMissing
from slimsight.deploy.bench.images import BenchImages
from slimsight.deploy.bench.models import find_models
from slimsight.deploy.bench.probe import TrialResult
from slimsight.deploy.bench.sweep import BenchSettings, run_sweep
from slimsight.export.parity.prove import Artifact, prove_parity
from slimsight.export.runners import Runner, Runtime, choose, plug_in

TOY = '''
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from slimsight.export.runners import BaseRunner, Runtime


class ToyRunner(BaseRunner):
    """ONNX's own reference implementation."""

    def __init__(self, path, device, threads):
        super().__init__(path.name, f"toy-{device.lower()}", "fp32")
        self.path = path

    def _open(self):
        self.evaluator = ReferenceEvaluator(onnx.load(self.path))

    def _close(self):
        del self.evaluator

    def _run(self, images):
        (logits,) = self.evaluator.run(["logits"], {"images": images})
        return logits + np.float32(OFFSET)


OFFSET = 0.0
RUNTIME = Runtime("toy", (".onnx",), ToyRunner, device="CPU")
ABSENT = Runtime("absent", (".onnx",), ToyRunner, available=lambda: "the toy shop is closed", device="CPU")


class Careless:
    """Keeps to nothing that a runner promises."""

    runtime, precision = "careless", "fp32"

    def __init__(self, path, device, threads):
        self.path = path

    def __enter__(self):
        if "locked" in self.path.name:
            raise KeyError("key of the door")
        return self

    def __exit__(self, *given):
        pass

    def run(self, images):
        return [[1, 2]] * (len(images) - 1)



def shut(path, device, threads):
    raise NotImplementedError("Pad-18 is not supported")


SHUT = Runtime("shut", (".onnx",), shut)
CARELESS = Runtime("careless", (".onnx",), Careless)
'''


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs entry points for a test: names and what they point at."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "toy_runtime.py").write_text(TOY)
    (folder / "broken_runtime.py").write_text("raise OSError('libtoy.so.3: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(folder)

    def install(**points: str) -> None:
        entries = [EntryPoint(name, value, plug_in.GROUP) for name, value in points.items()]
        monkeypatch.setattr(plug_in, "entry_points", lambda group: entries if group == plug_in.GROUP else [])
        choose.plug_ins.cache_clear()

    yield install
    choose.plug_ins.cache_clear()
    sys.modules.pop("toy_runtime", None)


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_a_toy_runtime_takes_part_in_parity_and_a_broken_one_is_named(case, plug, monkeypatch) -> None:
    plug(
        toy="toy_runtime:RUNTIME",
        broken="broken_runtime:RUNTIME",
        closed="toy_runtime:ABSENT",
        shut="toy_runtime:SHUT",
    )
    artifact = Artifact(case.onnx, "model.onnx", case.model, batches=(2,))
    found = prove_parity([artifact], case.images(3))
    assert found.passed
    (toy,) = [row for row in found.rows if row.runtime == "toy-cpu"]
    assert (toy.precision, toy.batch, toy.top1_agreement, toy.max_abs <= 1e-5) == ("fp32", 2, 1.0, True)
    reasons = {item.runtime: item.reason for item in found.absent}
    assert reasons["broken"] == (
        "the plug-in 'broken' of broken_runtime:RUNTIME cannot be loaded (OSError: libtoy.so.3: cannot open shared "
        "object file): update or uninstall broken_runtime:RUNTIME"
    )
    assert "the plug-in shut cannot open model.onnx (NotImplementedError: Pad-18 is not supp" in reasons["shut"]
    assert reasons["absent"] == choose.why_unavailable()["absent"] == "the toy shop is closed"
    monkeypatch.setattr(sys.modules["toy_runtime"], "OFFSET", 0.01)
    (wrong,) = [row for row in prove_parity([artifact], case.images(3)).rows if row.runtime == "toy-cpu"]
    assert (wrong.passed, wrong.max_abs) == (False, pytest.approx(0.01, abs=1e-4))


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_a_toy_runtime_takes_part_in_bench(case, plug) -> None:
    plug(toy="toy_runtime:RUNTIME", broken="broken_runtime:RUNTIME")
    models = find_models([case.onnx])
    clock = iter(range(0, 10**12, 1_000_000))
    result = run_sweep(
        models,
        models[0],
        BenchImages(case.images(2), "random"),
        wanted=["onnxruntime-cpu", "toy:cpu", "broken"],
        settings=BenchSettings(rounds=20, sessions=2, warmup=0.01, seconds=5),
        fixed_batches={},
        probe=lambda _trial: TrialResult(host_bytes=1),
        clock=lambda: next(clock),
    )
    assert [row.runtime for row in result.rows] == ["onnxruntime-cpu", "toy:cpu"]
    (skipped,) = result.skipped
    assert (skipped.runtime, "libtoy.so.3" in skipped.reason) == ("broken", True)


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_what_a_plug_in_gets_wrong_is_said_of_it(case, plug, tmp_path: Path) -> None:
    plug(careless="toy_runtime:CARELESS", module="toy_runtime", twin="toy_runtime:RUNTIME", twins="toy_runtime:RUNTIME")
    images = np.zeros((3, 3, 16, 16), np.float32)
    with choose.open_runner(case.onnx, "careless") as runner:
        with pytest.raises(ExportError, match=r"failed in careless on 3 images of 3x16x16 \(it gave int64 \(2, 2\)"):
            runner.run(images)
        with pytest.raises(ExportError, match="NaN or infinity in 3 of 3 images"):
            runner.run(images * np.nan)
    locked = tmp_path / "locked.onnx"
    with (
        pytest.raises(ExportError, match=r"careless cannot open locked\.onnx \(KeyError: 'key of the door'"),
        choose.open_runner(locked, "careless"),
    ):
        pass
    known = choose.why_unavailable()
    assert "toy_runtime is a module, and not a slimsight Runtime" in str(known["module"])
    assert known["toy"] is None
    assert "a runtime is called 'toy' already" in str(known["twins"])
    with pytest.raises(RuntimeMissing, match="is a module"):
        choose.all_runtimes()["module"].open(case.onnx, None, 1)


def never_opened(model: Any, _device: str | None, _threads: int) -> Runner:
    raise AssertionError(f"{model} was opened")


def test_a_runtime_must_have_a_name_and_formats() -> None:
    with pytest.raises(ValueError, match="a runtime is called 'My:Own': give lower-case letters"):
        Runtime("My:Own", (".onnx",), never_opened)
    with pytest.raises(ValueError, match=r"runtime own takes \.tflite: give some of module, \.onnx"):
        Runtime("own", (".tflite",), never_opened)
