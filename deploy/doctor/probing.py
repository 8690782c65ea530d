"""Runs probes in processes of their own and reads their findings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "note", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """One fact about a machine. ``note``: works, with a restriction; ``absent``: optional and not installed."""

    area: str
    name: str
    state: State
    found: str
    remedy: str = ""


def pip_install(requirement: str) -> str:
    """The command that installs it into the Python that runs this."""
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shown} -m pip install '{requirement}'"


def installed(distribution: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


Facts = Mapping[str, Any]


@dataclass(frozen=True)
class ProbeResult:
    """Facts that a probe reported, by name; ``died``: why it ended early, and ``at``: which module it was importing."""

    facts: Mapping[str, Facts]
    died: str = ""
    at: str = ""


def probe(names: Sequence[str], seconds: float) -> dict[str, ProbeResult]:
    """Run probes in parallel, each in a process of its own that may crash."""
    with tempfile.TemporaryDirectory(prefix="slimsight-doctor-") as folder:  # files: a full pipe would stop a probe
        started = {}
        for name in names:
            with (Path(folder) / f"{name}.out").open("wb") as out, (Path(folder) / f"{name}.err").open("wb") as err:
                # -P: nothing is imported from the current folder
                command = [sys.executable, "-P", "-m", "slimsight.deploy.doctor.probe", name]
                started[name] = subprocess.Popen(
                    command, stdout=out, stderr=err, env=_environment(), start_new_session=True
                )
        results = {}
        for name, process in started.items():
            try:
                process.wait(seconds)
                ended = ""
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the compiler it may have started
                process.wait()
                ended = f"it did not answer within {seconds:g} s"
            output = (Path(folder) / f"{name}.out").read_text(encoding="utf-8")
            errors = (Path(folder) / f"{name}.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if not ended and process.returncode:
                code = process.returncode
                ended = f"it ended by {signal.Signals(-code).name}" if code < 0 else (errors or ["exit code 1"])[-1]
            results[name] = _to_result(output, ended)
        return results


def _environment() -> dict[str, str]:
    """This environment, with this package on PYTHONPATH: probes import it wherever they are started."""
    here = str(Path(__file__).parents[3])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}


def _to_result(output: str, died: str) -> ProbeResult:
    facts, at = {}, ""
    for line in output.splitlines():
        item = json.loads(line)
        if item["name"] == "importing":
            at = item["module"]
        else:
            facts[item["name"]] = item
    return ProbeResult(facts, died, at if died else "")
