"""From what probes found to what it means for a run, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from ..cache_place import default_cache
from ..limits import existing, free_disk, usable_cores, usable_memory

State = Literal["ok", "note", "absent", "broken"]
Facts = Mapping[str, Any]

AREAS = {
    "machine": "machine",
    "needed": "needed by every run",
    "runtimes": "runtimes",
    "optional": "optional packages",
}
"""Parts of a diagnosis, and what they are called."""

_SECONDS = 120.0
_GB = 1e9
_ROOM, _MEMORY = 2e9, 2e9
_LEAST_ROOM = 1e8
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "PyYAML", "sklearn": "scikit-learn", "lightning_fabric": "lightning-fabric"}
_OPTIONAL = {
    "timm": ("timm>=1.0", "models named timm:NAME"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``note``: works, with a restriction; ``absent``: optional and not there."""

    area: str
    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything looked at."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What keeps a run from working."""
        return tuple(item for item in self.findings if item.state == "broken" and item.area in ("machine", "needed"))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"can_run": not self.broken, "findings": [asdict(item) for item in self.findings]}


@dataclass(frozen=True)
class Probed:
    """What a probe said, by name; ``died``: why it could not say more, and what it was at."""

    facts: Mapping[str, Facts]
    died: str = ""
    at: str = ""


def diagnose(*, seconds: float = _SECONDS) -> Diagnosis:
    """Look at everything; heavy libraries in processes of their own, which may crash or hang.

    Args:
        seconds: most for all probes, which run side by side.
    """
    probes = probe(("learning", "onnxruntime", "tensorrt", "tensorrt_rtx", "compiler"), seconds)
    findings = [
        *_machine(),
        *_requirements(),
        *_learning(probes["learning"]),
        *_onnxruntime(probes["onnxruntime"], probes["learning"]),
        *_compiler(probes["compiler"]),
        *_tensorrt("tensorrt", "tensorrt", probes["tensorrt"], probes["learning"]),
        *_tensorrt("tensorrt-rtx", "tensorrt_rtx", probes["tensorrt_rtx"], probes["learning"]),
        *_optional(),
    ]
    return Diagnosis(tuple(sorted(findings, key=lambda item: list(AREAS).index(item.area))))


def probe(names: Sequence[str], seconds: float) -> dict[str, Probed]:
    """Run probes side by side, each in a process; none of them can take this one down."""
    with tempfile.TemporaryDirectory(prefix="slimsight-doctor-") as folder:  # files: a full pipe would stop a probe
        started = {}
        for name in names:
            with (Path(folder) / f"{name}.out").open("wb") as out, (Path(folder) / f"{name}.err").open("wb") as err:
                command = [sys.executable, "-m", "deploy.doctor.probe", name]
                started[name] = subprocess.Popen(
                    command, stdout=out, stderr=err, env=_environment(), start_new_session=True
                )
        found = {}
        for name, process in started.items():
            try:
                process.wait(seconds)
                ended = ""
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the compiler it may have started
                process.wait()
                ended = f"it did not answer within {seconds:g} s"
            said = (Path(folder) / f"{name}.out").read_text(encoding="utf-8")
            errors = (Path(folder) / f"{name}.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if not ended and process.returncode:
                code = process.returncode
                ended = f"it ended by {signal.Signals(-code).name}" if code < 0 else (errors or ["exit code 1"])[-1]
            found[name] = _read(said, ended)
        return found


def _environment() -> dict[str, str]:
    """The probes find this package as this process did, wherever they are started."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}


def _read(said: str, died: str) -> Probed:
    facts, at = {}, ""
    for line in said.splitlines():
        item = json.loads(line)
        if item["name"] == "importing":
            at = item["module"]
        else:
            facts[item["name"]] = item
    return Probed(facts, died, at if died else "")


def _pip(requirement: str) -> str:
    """The command that installs it into the Python that runs this."""
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shown} -m pip install '{requirement}'"


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("machine", "python", "ok", f"{version}, {sys.executable}")
    yield Finding(
        "machine", "slimsight", "ok", f"{_installed('slimsight') or 'not installed'}, {Path(__file__).parents[2]}"
    )
    cores = usable_cores()
    told = f"{cores.usable} of {cores.all} usable: {cores.limited_by}" if cores.limited_by else f"{cores.usable} usable"
    fewer = f"write threads: {cores.usable} into recipes" if "cgroup" in cores.limited_by else ""
    yield Finding("machine", "cores", "note" if fewer else "ok", told, fewer)
    memory = usable_memory()
    if memory is not None:
        little = "" if memory >= _MEMORY else "close other programs, or lower the batch sizes of a recipe"
        yield Finding("machine", "memory", "note" if little else "ok", f"{memory / _GB:.1f} GB free", little)
    yield _place("cache of images", default_cache(), "set SLIMSIGHT_CACHE to a folder with room that you may write")
    yield _place("current folder", Path.cwd(), "runs are written to runs/ here: choose another place with --out")


def _place(name: str, place: Path, remedy: str) -> Finding:
    free, above = free_disk(place), existing(place)
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding("machine", name, "broken", f"{place} cannot be written", remedy)
    state: State = "ok" if free >= _ROOM else "note" if free >= _LEAST_ROOM else "broken"
    return Finding("machine", name, state, f"{place}, {free / _GB:.1f} GB free", "" if state == "ok" else remedy)


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> Iterator[Finding]:
    """What pip was told to install, with versions that no longer fit; what does is for its import to say."""
    for text in metadata.requires("slimsight") or () if _installed("slimsight") else ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _installed(wanted.name)
        if version is None and wanted.name == "onnxruntime-gpu":
            version = _installed("onnxruntime")  # the same, for the CPU
        if version is None:
            command = _pip(f"{wanted.name}{wanted.specifier}")
            yield Finding("needed", wanted.name, "broken", "not installed", command)
        elif not wanted.specifier.contains(version, prereleases=True):
            found = f"{version} is installed, {wanted.specifier} is needed"
            yield Finding("needed", wanted.name, "broken", found, _pip(f"{wanted.name}{wanted.specifier}"))


def _learning(found: Probed) -> Iterator[Finding]:
    whole = [name for name, facts in found.facts.items() if "version" in facts]
    for name, facts in found.facts.items():
        if "broken" in facts:
            remedy = _pip(_DISTRIBUTIONS.get(name, name)) + " --force-reinstall"
            yield Finding("needed", name, "broken", f"cannot be imported: {facts['broken']}", remedy)
    if found.died:
        remedy = _pip(_DISTRIBUTIONS.get(found.at, found.at)) + " --force-reinstall"
        yield Finding("needed", found.at, "broken", f"importing it: {found.died}", remedy)
    for name in ("torch", "torchvision"):
        if name in whole:
            yield Finding("needed", name, "ok", found.facts[name]["version"])
    others = [name for name in whole if name not in ("torch", "torchvision")]
    if others:
        yield Finding("needed", "other packages", "ok", f"{len(others)} import: {', '.join(others)}")
    if "torch devices" in found.facts:
        yield _gpu(found.facts["torch devices"])


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
    found = f"none: {why} (torch is built for CUDA {built}); everything runs on the CPU"
    return Finding("machine", "GPU", "note", found, "with an NVIDIA GPU: install its driver; nvidia-smi must list it")


def _has_gpu(learning: Probed) -> bool:
    return bool(learning.facts.get("torch devices", {}).get("gpus"))


_OTHER_BUILD = "choose a build for your GPU and driver at https://pytorch.org/get-started/locally/"


def _onnxruntime(found: Probed, learning: Probed) -> Iterator[Finding]:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        facts = found.facts.get(name)
        package = "onnxruntime-gpu" if name == "onnxruntime" and _installed("onnxruntime-gpu") else name
        if facts is None and found.at == name:
            yield Finding("needed", name, "broken", f"importing it: {found.died}", _pip(package) + " --force-reinstall")
        elif facts is not None and "broken" in facts:
            yield Finding("needed", name, "broken", f"cannot be imported: {facts['broken']}", _pip(package))
        elif facts is not None:
            yield Finding("needed", name, "ok", facts["version"])
    providers = {name: facts for name, facts in found.facts.items() if name.endswith("ExecutionProvider")}
    for name, shown in _PROVIDERS.items():
        if name in providers and providers[name]["ran"]:
            yield Finding("runtimes", shown, "ok", "runs")
        elif name == "CPUExecutionProvider" and "onnxruntime" in found.facts:
            why = providers.get(name, {}).get("reason", found.died or "it is not in this build")
            yield Finding("needed", shown, "broken", why, _pip("onnxruntime") + " --force-reinstall")
        elif name in providers and not _has_gpu(learning):
            yield Finding("runtimes", shown, "absent", "in this build, but there is no GPU")
        elif name in providers or found.at == name:
            why = providers.get(name, {}).get("reason") or found.died or "its driver or libraries are missing"
            yield Finding("runtimes", shown, "absent", f"cannot start here: {why}", _PROVIDER_REMEDIES[name])
        elif "onnxruntime" in found.facts:
            yield Finding("runtimes", shown, "absent", "not in this build of ONNX Runtime", _pip("onnxruntime-gpu"))


_PROVIDERS = {
    "CPUExecutionProvider": "onnxruntime-cpu",
    "CUDAExecutionProvider": "onnxruntime-cuda",
    "TensorrtExecutionProvider": "onnxruntime-tensorrt",
}
_PROVIDER_REMEDIES = {
    "CUDAExecutionProvider": "needs an NVIDIA GPU, its driver, and CUDA and cuDNN as torch brings them",
    "TensorrtExecutionProvider": "needs an NVIDIA GPU, its driver, and TensorRT's libraries (package tensorrt)",
}


def _compiler(found: Probed) -> Iterator[Finding]:
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


def _tensorrt(shown: str, module: str, found: Probed, learning: Probed) -> Iterator[Finding]:
    wanted = "tensorrt>=10.9" if module == "tensorrt" else "tensorrt-rtx>=1.7"
    facts = found.facts.get(module, {})
    if found.died and found.at == module:
        why = f"{found.died} while it was imported"
        yield Finding("runtimes", shown, "broken", why, _pip(wanted) + " --force-reinstall")
    elif str(facts.get("broken", "")).startswith("ModuleNotFoundError: No module named") and module in facts["broken"]:
        yield Finding("runtimes", shown, "absent", "not installed", _pip(wanted))
    elif "broken" in facts:
        why = f"cannot be used: {facts['broken']}"
        remedy = (
            _pip(wanted) + " --force-reinstall"
            if _has_gpu(learning) or module != "tensorrt"
            else "it needs an NVIDIA GPU"
        )
        yield Finding("runtimes", shown, "broken", why, remedy)
    elif _has_gpu(learning):
        yield Finding("runtimes", shown, "ok", f"{facts['version']}: builds and runs engines")
    else:
        found_ = f"{facts['version']}: builds engines here, runs none (no GPU)"
        yield Finding("runtimes", shown, "note" if module == "tensorrt_rtx" else "absent", found_)


def _optional() -> Iterator[Finding]:
    for name, (wanted, what) in _OPTIONAL.items():
        version = _installed(name)
        if version is None:
            yield Finding("optional", name, "absent", f"not installed: {what}", _pip(wanted))
        elif not Requirement(wanted).specifier.contains(version, prereleases=True):
            yield Finding("optional", name, "note", f"{version} is installed, {wanted} is needed: {what}", _pip(wanted))
        else:
            yield Finding("optional", name, "ok", f"{version}: {what}")
