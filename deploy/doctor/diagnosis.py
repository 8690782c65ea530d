"""The diagnosis of a machine: findings from probes, and a remedy for each problem."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from slimsight.compress.errors import ConfigError

from ..host import CHOOSE_CACHE, default_cache, free_disk, nearest_folder, usable_cores, usable_memory
from .probing import Facts, Finding, ProbeResult, State, installed, pip_install, probe
from .runtimes import (
    compiler_findings,
    onnxruntime_findings,
    openvino_findings,
    plug_in_findings,
    tensorrt_findings,
)

AREAS = {
    "machine": "machine",
    "needed": "needed by every run",
    "runtimes": "runtimes",
    "optional": "optional packages",
}
"""Areas of a diagnosis, and their titles."""

_SECONDS = 120.0
_GB = 1e9
_ROOM, _MEMORY = 2e9, 2e9
_LEAST_ROOM = 1e8
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "PyYAML", "sklearn": "scikit-learn", "lightning_fabric": "lightning-fabric"}
_OPTIONAL = {
    "timm": ("timm>=1.0.3", "models named timm:NAME"),
    "executorch": ("executorch>=1.5", "export --to executorch; each release fits one version of torch"),
    "huggingface_hub": ("huggingface_hub>=0.26", "package --push-to-hub"),
}


@dataclass(frozen=True)
class Diagnosis:
    """All findings about a machine."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Findings that keep a run from working."""
        return tuple(item for item in self.findings if item.state == "broken" and item.area in ("machine", "needed"))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"can_run": not self.broken, "findings": [asdict(item) for item in self.findings]}


def diagnose(*, seconds: float = _SECONDS) -> Diagnosis:
    """Examine the machine; heavy libraries in processes of their own, which may crash or hang.

    Args:
        seconds: limit for all probes together, which run in parallel.
    """
    probes = probe(("learning", "onnxruntime", "openvino", "plug_ins", "tensorrt", "tensorrt_rtx", "compiler"), seconds)
    findings = [
        *_machine(),
        *_requirements(),
        *_learning(probes["learning"]),
        *onnxruntime_findings(probes["onnxruntime"], probes["learning"]),
        *compiler_findings(probes["compiler"]),
        *openvino_findings(probes["openvino"]),
        *plug_in_findings(probes["plug_ins"]),
        *tensorrt_findings("tensorrt", "tensorrt", probes["tensorrt"], probes["learning"]),
        *tensorrt_findings("tensorrt-rtx", "tensorrt_rtx", probes["tensorrt_rtx"], probes["learning"]),
        *_optional(),
    ]
    return Diagnosis(tuple(sorted(findings, key=lambda item: list(AREAS).index(item.area))))


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("machine", "python", "ok", f"{version}, {sys.executable}")
    yield Finding(
        "machine", "slimsight", "ok", f"{installed('slimsight') or 'not installed'}, {Path(__file__).parents[2]}"
    )
    cores = usable_cores()
    core_text = (
        f"{cores.usable} of {cores.all} usable: {cores.limited_by}" if cores.limited_by else f"{cores.usable} usable"
    )
    fewer = f"write threads: {cores.usable} into recipes" if "cgroup" in cores.limited_by else ""
    yield Finding("machine", "cores", "note" if fewer else "ok", core_text, fewer)
    memory = usable_memory()
    if memory is not None:
        little = "" if memory >= _MEMORY else "close other programs, or lower the batch sizes of a recipe"
        yield Finding("machine", "memory", "note" if little else "ok", f"{memory / _GB:.1f} GB free", little)
    try:
        yield _folder_finding("cache of images", default_cache(), CHOOSE_CACHE)
    except ConfigError:
        yield Finding("machine", "cache of images", "broken", "there is no home folder to keep it in", CHOOSE_CACHE)
    yield _folder_finding(
        "current folder", Path.cwd(), "runs are written to runs/ here: choose another place with --out"
    )


def _folder_finding(name: str, place: Path, remedy: str) -> Finding:
    free, above = free_disk(place), nearest_folder(place)
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding("machine", name, "broken", f"{place} cannot be written", remedy)
    state: State = "ok" if free >= _ROOM else "note" if free >= _LEAST_ROOM else "broken"
    return Finding("machine", name, state, f"{place}, {free / _GB:.1f} GB free", "" if state == "ok" else remedy)


def _requirements() -> Iterator[Finding]:
    """Requirements that are missing or have a version that does not fit; probes import the rest."""
    for text in metadata.requires("slimsight") or () if installed("slimsight") else ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = installed(wanted.name)
        if version is None and wanted.name == "onnxruntime-gpu":
            version = installed("onnxruntime")  # the same, for the CPU
        if version is None:
            command = pip_install(f"{wanted.name}{wanted.specifier}")
            yield Finding("needed", wanted.name, "broken", "not installed", command)
        elif not wanted.specifier.contains(version, prereleases=True):
            problem = f"{version} is installed, {wanted.specifier} is needed"
            yield Finding("needed", wanted.name, "broken", problem, pip_install(f"{wanted.name}{wanted.specifier}"))


def _learning(probed: ProbeResult) -> Iterator[Finding]:
    imported = [name for name, facts in probed.facts.items() if "version" in facts]
    for name, facts in probed.facts.items():
        if "broken" in facts:
            remedy = pip_install(_DISTRIBUTIONS.get(name, name)) + " --force-reinstall"
            yield Finding("needed", name, "broken", f"cannot be imported: {facts['broken']}", remedy)
    if probed.died:
        remedy = pip_install(_DISTRIBUTIONS.get(probed.at, probed.at)) + " --force-reinstall"
        yield Finding("needed", probed.at, "broken", f"importing it: {probed.died}", remedy)
    for name in ("torch", "torchvision"):
        if name in imported:
            yield Finding("needed", name, "ok", probed.facts[name]["version"])
    others = [name for name in imported if name not in ("torch", "torchvision")]
    if others:
        yield Finding("needed", "other packages", "ok", f"{len(others)} import: {', '.join(others)}")
    if "torch devices" in probed.facts:
        yield _gpu(probed.facts["torch devices"])


def _gpu(facts: Facts) -> Finding:
    built = facts["built_for"]
    if gpus := facts.get("gpus"):
        named = ", ".join(f"{gpu['name']} ({gpu['memory'] / _GB:.0f} GB)" for gpu in gpus)
        if facts.get("computes"):
            return Finding("machine", "GPU", "ok", f"{named}: stages that learn run there")
        why = facts.get("gpu_error", "a sum came out wrong")
        return Finding("machine", "GPU", "broken", f"{named}, but torch cannot compute there: {why}", _OTHER_BUILD)
    if built is None:
        return Finding("machine", "GPU", "note", "this torch is built for the CPU alone", f"with a GPU: {_OTHER_BUILD}")
    why = facts.get("no_gpu") or "none is seen"
    text = f"none: {why} (torch is built for CUDA {built}); everything runs on the CPU"
    return Finding("machine", "GPU", "note", text, "with an NVIDIA GPU: install its driver; nvidia-smi must list it")


_OTHER_BUILD = "choose a build for your GPU and driver at https://pytorch.org/get-started/locally/"


def _optional() -> Iterator[Finding]:
    for name, (wanted, what) in _OPTIONAL.items():
        version = installed(name)
        if version is None:
            yield Finding("optional", name, "absent", f"not installed: {what}", pip_install(wanted))
        elif not Requirement(wanted).specifier.contains(version, prereleases=True):
            yield Finding(
                "optional", name, "note", f"{version} is installed, {wanted} is needed: {what}", pip_install(wanted)
            )
        else:
            yield Finding("optional", name, "ok", f"{version}: {what}")
