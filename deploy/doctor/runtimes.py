"""Findings about runtimes: ONNX Runtime, the compiler of torch.compile, OpenVINO, plug-ins, both TensorRTs."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from .probing import Finding, ProbeResult, installed, pip_install


def onnxruntime_findings(probed: ProbeResult, learning: ProbeResult) -> Iterator[Finding]:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        facts = probed.facts.get(name)
        package = "onnxruntime-gpu" if name == "onnxruntime" and installed("onnxruntime-gpu") else name
        if facts is None and probed.at == name:
            yield Finding(
                "needed", name, "broken", f"importing it: {probed.died}", pip_install(package) + " --force-reinstall"
            )
        elif facts is not None and "broken" in facts:
            yield Finding("needed", name, "broken", f"cannot be imported: {facts['broken']}", pip_install(package))
        elif facts is not None:
            yield Finding("needed", name, "ok", facts["version"])
    providers = {name: facts for name, facts in probed.facts.items() if name.endswith("ExecutionProvider")}
    for name, shown in _PROVIDERS.items():
        if name in providers and providers[name]["ran"]:
            yield Finding("runtimes", shown, "ok", "runs")
        elif name == "CPUExecutionProvider" and "onnxruntime" in probed.facts:
            why = providers.get(name, {}).get("reason", probed.died or "it is not in this build")
            yield Finding("needed", shown, "broken", why, pip_install("onnxruntime") + " --force-reinstall")
        elif name in providers and not has_gpu(learning):
            yield Finding("runtimes", shown, "absent", "in this build, but there is no GPU")
        elif name in providers or probed.at == name:
            why = providers.get(name, {}).get("reason") or probed.died or "its driver or libraries are missing"
            yield Finding("runtimes", shown, "absent", f"cannot start here: {why}", _PROVIDER_REMEDIES[name])
        elif "onnxruntime" in probed.facts:
            yield Finding(
                "runtimes", shown, "absent", "not in this build of ONNX Runtime", pip_install("onnxruntime-gpu")
            )


_PROVIDERS = {
    "CPUExecutionProvider": "onnxruntime-cpu",
    "CUDAExecutionProvider": "onnxruntime-cuda",
    "TensorrtExecutionProvider": "onnxruntime-tensorrt",
}
_PROVIDER_REMEDIES = {
    "CUDAExecutionProvider": "needs an NVIDIA GPU, its driver, and CUDA and cuDNN as torch brings them",
    "TensorrtExecutionProvider": "needs an NVIDIA GPU, its driver, and TensorRT's libraries (package tensorrt)",
}


def compiler_findings(probed: ProbeResult) -> Iterator[Finding]:
    facts = probed.facts.get("compiler")
    if facts is None:
        yield Finding("runtimes", "torch-compile", "absent", f"the compiler was tried: {probed.died}")
    elif "missing" in facts:
        headers = "Python's headers" in facts["missing"]
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev" if headers else "g++"
        remedy = f"apt install {package}, or what your system calls it; without it everything runs uncompiled"
        yield Finding("runtimes", "torch-compile", "absent", facts["missing"], remedy)
    else:
        yield Finding("runtimes", "torch-compile", "ok", f"C++ by {facts['path']}")


def openvino_findings(probed: ProbeResult) -> Iterator[Finding]:
    facts = probed.facts.get("openvino", {})
    if "version" in facts and "devices" in probed.facts:
        seen = ", ".join(probed.facts["devices"]["seen"]) or "no device"
        yield Finding("runtimes", "openvino", "ok" if seen != "no device" else "absent", f"{facts['version']}: {seen}")
    elif facts.get("missing"):
        yield Finding("runtimes", "openvino", "absent", "not installed", pip_install("slimsight[openvino]"))
    else:
        why = facts.get("broken") or probed.died or "it does not say which devices there are"
        yield Finding("runtimes", "openvino", "broken", why, pip_install("openvino>=2025.1") + " --force-reinstall")


def plug_in_findings(probed: ProbeResult) -> Iterator[Finding]:
    for name, facts in probed.facts.items():
        if facts["reason"] is None:
            yield Finding("runtimes", name, "ok", f"plug-in, opens {', '.join(facts['formats'])}")
        else:
            yield Finding("runtimes", name, "broken", facts["reason"])
    if probed.died:
        yield Finding(
            "runtimes", "plug-ins", "broken", f"loading them: {probed.died}", "uninstall the one that ends it"
        )


def tensorrt_findings(shown: str, module: str, probed: ProbeResult, learning: ProbeResult) -> Iterator[Finding]:
    wanted = "tensorrt>=10.9" if module == "tensorrt" else "tensorrt-rtx>=1.7"
    facts = probed.facts.get(module, {})
    if probed.died and probed.at == module:
        why = f"{probed.died} while it was imported"
        yield Finding("runtimes", shown, "broken", why, pip_install(wanted) + " --force-reinstall")
    elif str(facts.get("broken", "")).startswith("ModuleNotFoundError: No module named") and module in facts["broken"]:
        yield Finding("runtimes", shown, "absent", "not installed", pip_install(wanted))
    elif "broken" in facts:
        why = f"cannot be used: {facts['broken']}"
        remedy = (
            pip_install(wanted) + " --force-reinstall"
            if has_gpu(learning) or module != "tensorrt"
            else "it needs an NVIDIA GPU"
        )
        yield Finding("runtimes", shown, "broken", why, remedy)
    elif has_gpu(learning):
        yield Finding("runtimes", shown, "ok", f"{facts['version']}: builds and runs engines")
    else:
        text = f"{facts['version']}: builds engines here, runs none (no GPU)"
        yield Finding("runtimes", shown, "note" if module == "tensorrt_rtx" else "absent", text)


def has_gpu(learning: ProbeResult) -> bool:
    """Whether torch sees a GPU."""
    return bool(learning.facts.get("torch devices", {}).get("gpus"))
