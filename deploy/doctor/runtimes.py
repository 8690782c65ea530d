"""What probes of runtimes mean: ONNX Runtime, the compiler of torch.compile, both TensorRTs."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from .probing import Finding, Probed, installed, pip_install


def onnxruntime(found: Probed, learning: Probed) -> Iterator[Finding]:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        facts = found.facts.get(name)
        package = "onnxruntime-gpu" if name == "onnxruntime" and installed("onnxruntime-gpu") else name
        if facts is None and found.at == name:
            yield Finding(
                "needed", name, "broken", f"importing it: {found.died}", pip_install(package) + " --force-reinstall"
            )
        elif facts is not None and "broken" in facts:
            yield Finding("needed", name, "broken", f"cannot be imported: {facts['broken']}", pip_install(package))
        elif facts is not None:
            yield Finding("needed", name, "ok", facts["version"])
    providers = {name: facts for name, facts in found.facts.items() if name.endswith("ExecutionProvider")}
    for name, shown in _PROVIDERS.items():
        if name in providers and providers[name]["ran"]:
            yield Finding("runtimes", shown, "ok", "runs")
        elif name == "CPUExecutionProvider" and "onnxruntime" in found.facts:
            why = providers.get(name, {}).get("reason", found.died or "it is not in this build")
            yield Finding("needed", shown, "broken", why, pip_install("onnxruntime") + " --force-reinstall")
        elif name in providers and not has_gpu(learning):
            yield Finding("runtimes", shown, "absent", "in this build, but there is no GPU")
        elif name in providers or found.at == name:
            why = providers.get(name, {}).get("reason") or found.died or "its driver or libraries are missing"
            yield Finding("runtimes", shown, "absent", f"cannot start here: {why}", _PROVIDER_REMEDIES[name])
        elif "onnxruntime" in found.facts:
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


def compiler(found: Probed) -> Iterator[Finding]:
    facts = found.facts.get("compiler")
    if facts is None:
        yield Finding("runtimes", "torch-compile", "absent", f"the compiler was tried: {found.died}")
    elif "missing" in facts:
        headers = "Python's headers" in facts["missing"]
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev" if headers else "g++"
        remedy = f"apt install {package}, or what your system calls it; without it everything runs uncompiled"
        yield Finding("runtimes", "torch-compile", "absent", facts["missing"], remedy)
    else:
        yield Finding("runtimes", "torch-compile", "ok", f"C++ by {facts['path']}")


def tensorrt(shown: str, module: str, found: Probed, learning: Probed) -> Iterator[Finding]:
    wanted = "tensorrt>=10.9" if module == "tensorrt" else "tensorrt-rtx>=1.7"
    facts = found.facts.get(module, {})
    if found.died and found.at == module:
        why = f"{found.died} while it was imported"
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
        found_ = f"{facts['version']}: builds engines here, runs none (no GPU)"
        yield Finding("runtimes", shown, "note" if module == "tensorrt_rtx" else "absent", found_)


def has_gpu(learning: Probed) -> bool:
    return bool(learning.facts.get("torch devices", {}).get("gpus"))
