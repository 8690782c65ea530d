"""The commands of docs/first-run.md on photographs, with what they print, their exit codes and their processor time.

    .venv/bin/python benchmarks/first_run.py CLOTHING WEIGHTS [--work FOLDER]

CLOTHING has train/, validation/ and test/ (a folder a class); WEIGHTS are of timm's tf_efficientnet_lite0 finetuned on
it. Both are copied into an empty folder and the commands are run there, as a new user runs them, with their output in a
pipe. Writes results/first_run.json; benchmarks/tables.py copies it into the page.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from slimsight.compress.files.atomic import write_json
from slimsight.deploy.machine import device_name, versions

RESULT = Path(__file__).resolve().parent / "results" / "first_run.json"
MODEL, IMAGES, WEIGHTS = "timm:tf_efficientnet_lite0", "clothing", "my_weights.safetensors"
COMMANDS = {
    "inspect": f"slimsight inspect {MODEL} --input 3x224x224 --classes 10",
    "init": f"slimsight init {MODEL} {IMAGES} --weights {WEIGHTS}",
    "dry run": "slimsight run recipe.yaml --dry-run",
    "dry run again": "slimsight run recipe.yaml --dry-run",
    "run": "slimsight run recipe.yaml",
    "check": "slimsight check runs/recipe --budget budget.yaml",
}


def measured(command: str, folder: Path, cache: Path) -> dict[str, Any]:
    """Run one command; a line's ``second`` is the wall time at which it came."""
    given = [sys.executable, "-m", *command.split()]
    environment = {**os.environ, "SLIMSIGHT_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    lines = []
    with subprocess.Popen(
        given, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append({"second": round(time.monotonic() - started, 1), "text": line.rstrip("\n")})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    silences = [late["second"] - early["second"] for early, late in itertools.pairwise(lines)]
    return {
        "command": command,
        "exit_code": process.returncode,
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(time.monotonic() - started, 1),
        "longest_silence": round(max(silences, default=0.0), 1),
        "lines": lines,
    }


def main() -> None:
    """Run the commands that have no row yet, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clothing", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--work", type=Path, default=None, help="where it is run; default: a new folder, removed after")
    given = parser.parse_args()
    folder = given.work or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(given.clothing, folder / IMAGES, dirs_exist_ok=True)
    shutil.copy(given.weights, folder / WEIGHTS)
    rows = {}
    for name, command in COMMANDS.items():
        rows[name] = measured(command, folder, folder / "cache")
        print(name, {key: value for key, value in rows[name].items() if key != "lines"}, flush=True)
    write_json(RESULT, {"schema": 1, "device": device_name(), "versions": versions(), "rows": rows})
    if given.work is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
