"""What figures were measured on: versions, processor, device, and what the machine was busy with."""

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
    "tensorrt",
    "tensorrt_rtx",
)
_GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
_CPUS = Path("/sys/devices/system/cpu")


def versions() -> dict[str, str]:
    """Versions of what computed the figures; packages that are absent are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """The GPU, or the processor's architecture and thread count."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU ({platform.machine()}, {plural(torch.get_num_threads(), 'thread')})"


def describe_machine() -> dict[str, Any]:
    """What does not change while something is measured: processor, cores, system, device, settings of threads."""
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
    """The processor's model where the system tells it, else its architecture."""
    named = _lines("/proc/cpuinfo", "model name")
    return named[0] if named else platform.processor() or platform.machine()


def machine_state() -> dict[str, Any]:
    """What may change: load averages, clocks and governors of the cores, CPU ticks by use, and the GPU's clocks.

    ``ticks_stolen`` of ``ticks``: what another guest of the same host took; null where the system does not tell.
    """
    ticks = _cpu_ticks()
    return {
        "load_average": list(os.getloadavg()),
        "cpu_mhz": [float(value) for value in _lines("/proc/cpuinfo", "cpu MHz")],
        "governors": sorted({_text(path) for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")}),
        "ticks": None if ticks is None else sum(ticks),
        "ticks_stolen": None if ticks is None or len(ticks) < 8 else ticks[7],
        "gpu": _gpu(),
    }


def steal_share(before: dict[str, Any], after: dict[str, Any]) -> float | None:
    """Share (0..1) of all CPU time between two states that other guests of the host took; None where not known."""
    if before["ticks_stolen"] is None or after["ticks_stolen"] is None or after["ticks"] <= before["ticks"]:
        return None
    return float((after["ticks_stolen"] - before["ticks_stolen"]) / (after["ticks"] - before["ticks"]))


def _lines(file: str, key: str) -> list[str]:
    """The values of ``key : value`` lines."""
    path = Path(file)
    if not path.is_file():
        return []
    found = (line.partition(":") for line in _text(path).splitlines())
    return [value.strip() for name, _, value in found if name.strip() == key]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _cpu_ticks() -> list[int] | None:
    """user, nice, system, idle, iowait, irq, softirq, steal of all cores (proc(5))."""
    path = Path("/proc/stat")
    return [int(word) for word in _text(path).splitlines()[0].split()[1:9]] if path.is_file() else None


def _gpu() -> dict[str, str] | None:
    """What the driver's own tool says of the first GPU; None where there is none, or no such tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    if found.returncode != 0 or not found.stdout.strip():
        return None
    values = [value.strip() for value in found.stdout.splitlines()[0].split(",")]
    return dict(zip(_GPU_FIELDS, values, strict=False))
