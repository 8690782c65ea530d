import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slimsight.deploy.doctor import Diagnosis, Finding
from slimsight.deploy.doctor.diagnosis import _gpu, _learning, _requirements
from slimsight.deploy.doctor.probing import ProbeResult, probe
from slimsight.deploy.doctor.runtimes import (
    compiler_findings,
    onnxruntime_findings,
    openvino_findings,
    plug_in_findings,
    tensorrt_findings,
)

from ..conftest import Said

CPU_ONLY = ProbeResult({"torch devices": {"built_for": "13.0", "threads": 2}})
WITH_GPU = ProbeResult(
    {"torch devices": {"built_for": "13.0", "gpus": [{"name": "A", "memory": 8e9}], "computes": True}}
)


def test_this_machine_can_run_what_its_tests_run(say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing, with real imports; narrow and without a colour."""
    monkeypatch.setenv("COLUMNS", "80")
    said: Said = say("doctor", "--json", tmp_path / "doctor.json")
    assert said.code == 0
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["can_run"] is True
    states = {item["name"]: item["state"] for item in found["findings"]}
    assert [states[name] for name in ("python", "torch", "torchvision", "onnx", "onnxruntime-cpu")] == ["ok"] * 5
    assert {"onnxruntime-cuda", "tensorrt", "tensorrt-rtx", "torch-compile", "timm", "GPU"} <= states.keys()
    assert states["openvino"] == ("ok" if find_spec("openvino") else "absent")
    assert "BROKEN" not in said.out
    text = [line for line in said.out.splitlines() if "-> " not in line]
    assert max(map(len, text)) <= 90  # names of folders are not broken
    assert "a run works here" in text[-1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for the package tensorrt."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "tensorrt.py"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it ended by SIGSEGV while it was imported"),
        ("import time; time.sleep(60)", "it did not answer within 5 s while it was imported"),
        ("import sys; sys.exit(3)", "cannot be used: SystemExit: 3"),
        ("raise OSError('libnvinfer.so.10: cannot open')", "cannot be used: OSError: libnvinfer.so.10: cannot open"),
    ],
)
def test_a_broken_library_is_a_finding(package: Path, code: str, words: str) -> None:
    package.write_text(code)
    (found,) = tensorrt_findings(
        "tensorrt", "tensorrt", probe(["tensorrt"], 5 if "sleep" in code else 60)["tensorrt"], WITH_GPU
    )
    assert (found.state, found.found) == ("broken", words)
    assert found.remedy.endswith("-m pip install 'tensorrt>=10.9' --force-reinstall")


def test_what_is_not_installed_comes_with_the_command_that_installs_it() -> None:
    missing = ProbeResult({"tensorrt": {"broken": "ModuleNotFoundError: No module named 'tensorrt'"}})
    (found,) = tensorrt_findings("tensorrt", "tensorrt", missing, CPU_ONLY)
    assert (found.state, found.found) == ("absent", "not installed")
    assert found.remedy.endswith("-m pip install 'tensorrt>=10.9'")


def test_only_what_every_run_needs_makes_it_impossible() -> None:
    good, bad = Finding("needed", "torch", "ok", ""), Finding("runtimes", "tensorrt", "broken", "")
    assert not Diagnosis((good, bad)).broken
    torch = Finding("needed", "torch", "broken", "cannot be imported")
    assert Diagnosis((torch, bad)).broken == (torch,)


def test_a_torch_that_dies_is_named() -> None:
    found = list(_learning(ProbeResult({"numpy": {"version": "2.0"}}, "it ended by SIGILL", "torch")))
    assert found[0] == Finding("needed", "torch", "broken", "importing it: it ended by SIGILL", found[0].remedy)
    (scipy, *_) = _learning(ProbeResult({"scipy": {"broken": "ImportError: no"}, "torch": {"version": "2"}}))
    assert (scipy.name, scipy.state) == ("scipy", "broken")


def test_a_package_that_is_too_old_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=99", "nowhere>=1; extra == 'dev'", "no-such-package<2"]
    monkeypatch.setattr("slimsight.deploy.doctor.diagnosis.metadata.requires", lambda _name: wanted)
    first, second = _requirements()
    assert first.found.endswith("is installed, >=99 is needed")
    assert first.remedy.endswith("-m pip install 'numpy>=99'")
    assert (second.name, second.state, second.found) == ("no-such-package", "broken", "not installed")


def test_gpus_that_torch_cannot_use_are_said() -> None:
    named = {"built_for": "13.0", "gpus": [{"name": "Old", "memory": 4e9}]}
    assert _gpu({**named, "computes": True}).state == "ok"
    cannot = _gpu({**named, "gpu_error": "RuntimeError: no kernel image"})
    assert (cannot.state, "no kernel image" in cannot.found) == ("broken", True)
    assert _gpu({"built_for": None}).found == "this torch is built for the CPU alone"


def test_providers_without_a_gpu_and_an_onnxruntime_without_providers() -> None:
    both = {"onnxruntime": {"version": "1.2"}, "CPUExecutionProvider": {"ran": True}}
    with_cuda = {**both, "CUDAExecutionProvider": {"ran": False, "reason": "no driver"}}
    states = {item.name: (item.state, item.found) for item in onnxruntime_findings(ProbeResult(with_cuda), CPU_ONLY)}
    assert states["onnxruntime-cpu"] == ("ok", "runs")
    assert states["onnxruntime-cuda"] == ("absent", "in this build, but there is no GPU")
    states = {item.name: (item.state, item.found) for item in onnxruntime_findings(ProbeResult(with_cuda), WITH_GPU)}
    assert states["onnxruntime-cuda"] == ("absent", "cannot start here: no driver")
    broken = [
        item
        for item in onnxruntime_findings(ProbeResult({"onnxruntime": {"version": "1.2"}}), CPU_ONLY)
        if item.state == "broken"
    ]
    assert [item.name for item in broken] == ["onnxruntime-cpu"]


def test_a_compiler_that_cannot_build_is_told_from_none() -> None:
    (none,) = compiler_findings(ProbeResult({"compiler": {"missing": "there is no C++ compiler"}}))
    assert none.remedy.startswith("apt install g++")
    (headers,) = compiler_findings(
        ProbeResult({"compiler": {"path": "g++", "missing": "Python's headers are not in /x"}})
    )
    assert "-dev" in headers.remedy


def test_openvino_and_plug_ins_are_listed_with_what_is_wrong() -> None:
    (seen,) = openvino_findings(
        ProbeResult({"openvino": {"version": "2026.4.1"}, "devices": {"seen": ["CPU", "GPU.0"]}})
    )
    assert (seen.state, seen.found) == ("ok", "2026.4.1: CPU, GPU.0")
    (missing,) = openvino_findings(ProbeResult({"openvino": {"broken": "x", "missing": True}}))
    assert (missing.state, missing.found) == ("absent", "not installed")
    assert missing.remedy.endswith("-m pip install 'slimsight[openvino]'")
    (died,) = openvino_findings(ProbeResult({}, "it ended by SIGSEGV", "openvino"))
    assert (died.state, died.found) == ("broken", "it ended by SIGSEGV")
    good, bad = plug_in_findings(
        ProbeResult({"toy": {"reason": None, "formats": [".onnx"]}, "b": {"reason": "it cannot be loaded"}})
    )
    assert (good.state, good.found) == ("ok", "plug-in, opens .onnx")
    assert (bad.state, bad.found) == ("broken", "it cannot be loaded")
