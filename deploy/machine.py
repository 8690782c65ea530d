"""The machine that figures were measured on: package versions, processor, device, load and clocks."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .report.units import plural

_PACKAGES = (
    "slimsight",
    "torch",
    "torchvision",
    "torch-pruning",
    "fvcore",
    "numpy",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
)
_GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
_CPUS = Path("/sys/devices/system/cpu")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute figures; absent packages are left out."""
    versions_by_name = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions_by_name[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions_by_name


def device_name() -> str:
    """The GPU, or the processor's architecture and thread count."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU ({platform.machine()}, {plural(torch.get_num_threads(), 'thread')})"


def describe_machine() -> dict[str, Any]:
    """Constant facts of a measurement: processor, cores, operating system, device, thread settings."""
    settings = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "system": platform.system(),
        "device": device_name(),
        "cuda": torch.version.cuda,
        "settings": settings,
    }


def processor() -> str:
    """The processor's model where the system reports it, else its architecture."""
    models = _values_of_key("/proc/cpuinfo", "model name")
    return models[0] if models else platform.processor() or platform.machine()


def machine_state() -> dict[str, Any]:
    """Varying state of a measurement: load averages, clocks and governors of the cores, CPU ticks, the GPU's clocks.

    ``ticks_stolen`` of ``ticks``: taken by other guests of the host; null where the system does not report it.
    """
    ticks = _cpu_ticks()
    return {
        "load_average": list(os.getloadavg()),
        "cpu_mhz": [float(value) for value in _values_of_key("/proc/cpuinfo", "cpu MHz")],
        "governors": sorted({_read_text(path) for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")}),
        "ticks": None if ticks is None else sum(ticks),
        "ticks_stolen": None if ticks is None or len(ticks) < 8 else ticks[7],
        "gpu": _gpu_state(),
    }


def steal_share(before: dict[str, Any], after: dict[str, Any]) -> float | None:
    """Share (0..1) of all CPU time between two states that other guests of the host took; None where not known."""
    if before["ticks_stolen"] is None or after["ticks_stolen"] is None or after["ticks"] <= before["ticks"]:
        return None
    return float((after["ticks_stolen"] - before["ticks_stolen"]) / (after["ticks"] - before["ticks"]))


def _values_of_key(file: str, key: str) -> list[str]:
    """The values of the lines ``key : value`` in ``file``."""
    path = Path(file)
    if not path.is_file():
        return []
    pairs = (line.partition(":") for line in _read_text(path).splitlines())
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _cpu_ticks() -> list[int] | None:
    """user, nice, system, idle, iowait, irq, softirq, steal of all cores (proc(5))."""
    path = Path("/proc/stat")
    return [int(word) for word in _read_text(path).splitlines()[0].split()[1:9]] if path.is_file() else None


def _gpu_state() -> dict[str, str] | None:
    """nvidia-smi's figures of the first GPU; None without a GPU or without nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0 or not done.stdout.strip():
        return None
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    return dict(zip(_GPU_FIELDS, values, strict=False))
