"""Kill tests: runs killed at random instants against undisturbed runs: same plan, same bits, same report.

    .venv/bin/python benchmarks/kill.py --out runs/kill [--kills 30] [--often 4] [--seed 0]

The recipe of ``short_run.py`` and the dynamic variant: every stage there is, steered by an explainer. Two uninterrupted
runs in processes of their own come first and must agree. Then runs get SIGKILL: at instants drawn uniformly over an
uninterrupted run's time, once at a random place within every stage, and some again and again until they are through.
Each is then run to its end, and compared: every file of the run directory by its bytes, but for ``TIMED`` ones, and
report.json but for ``TIMES``. Checkpoints are saved as often as their cost allows, so that kills land on them. Results
go to results/kill.json after every run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from short_run import RECIPE, write_recipe

from slimsight.compress.files.atomic import read_json, write_json
from slimsight.deploy.machine import device_name, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kill.json"
SETTINGS = ("dynamic.enabled=true", "dynamic.epochs=2", "dynamic.finetune_epochs=1", "dynamic.verify_images=10")
SECONDS = "0.2"
"""Between checkpoints, at least."""

TIMES = ("created", "latency", "stages[].seconds", "stages[].reused")
"""Keys of report.json that time decides: when it was written, what was measured, and which process did what."""

TIMED = ("run.log", "report.json", "report.md", "report.html", ".slimsight")
"""Files that hold times (report.json is compared without them), or the number of a process."""

STAGE = re.compile(r"^stage \d+ of \d+: (\w+)$")
RESUMED = re.compile(r"^(.+): goes on after step ([\d,]+) of ([\d,]+)$")


@dataclass
class Process:
    """A ``slimsight run`` and what it said so far."""

    popen: subprocess.Popen[bytes]
    log: Path
    started: float

    options: ClassVar[tuple[str, ...]] = ()
    """More of the command line."""

    @classmethod
    def start(cls, out: Path, log: Path) -> Self:
        words = [word for setting in SETTINGS for word in ("--set", setting)]
        recipe = str(out.parent / "tiny.yaml")
        command = [
            sys.executable,
            "-c",
            "from slimsight.deploy.cli.main import main; main()",
            "run",
            recipe,
            "--out",
            str(out),
        ]
        environment = {**os.environ, "SLIMSIGHT_CHECKPOINT_SECONDS": SECONDS}
        with log.open("wb") as file:
            popen = subprocess.Popen([*command, *words, *cls.options], stdout=file, stderr=file, env=environment)
        return cls(popen, log, time.monotonic())

    def said(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    @property
    def stage(self) -> str:
        """The stage at work; before the first one and behind the last one too."""
        names = [found[1] for line in self.said() if (found := STAGE.match(line))]
        return names[-1] if names else "start"

    def kill_after(self, seconds: float) -> float | None:
        """SIGKILL at that age; its age then, None if it had ended."""
        while (left := seconds - (time.monotonic() - self.started)) > 0:
            if self.popen.poll() is not None:
                return None
            time.sleep(min(left, 0.05))
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        return time.monotonic() - self.started if self.popen.returncode == -signal.SIGKILL else None

    def finish(self) -> tuple[int, float]:
        """Its exit code, and seconds from its start to its end."""
        code = self.popen.wait()
        return code, time.monotonic() - self.started


def file_digests(root: Path) -> dict[str, str]:
    """Every file that no time decides, by its SHA-256; of stages' records, without their seconds."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if name in TIMED:
            continue
        content = path.read_bytes()
        if path.name == "done.json":
            record = json.loads(content)
            for time_or_its_checksum in ("seconds", "seal"):
                record.pop(time_or_its_checksum, None)
            for named in ("files", "sha256"):  # the report's record knows its forms, which hold times
                record[named] = {file: value for file, value in record[named].items() if file not in TIMED}
            if path.parent.name == "latency":
                del record["metrics"]
            content = json.dumps(record, sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def report_of(root: Path) -> dict[str, Any]:
    """report.json without ``TIMES``."""
    report = read_json(root / "report.json")
    for key in ("created", "latency", "seal"):
        report.pop(key, None)
    for stage in report["stages"]:
        del stage["seconds"], stage["reused"]
    return dict(report)


def compare(found: Path, expected: Path) -> dict[str, Any]:
    """What differs between two finished runs."""
    ours, theirs = file_digests(found), file_digests(expected)
    differ = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    report = report_of(found) == report_of(expected)
    return {"report_equal": report, "files": len(theirs), "files_that_differ": differ, "same": report and not differ}


class Study:
    """All runs, in one folder; results are written after each."""

    process: ClassVar[type[Process]] = Process
    results: ClassVar[Path] = RESULTS

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder.absolute(), random.Random(seed)
        self.expected = self.folder / "whole"
        write_recipe(self.folder)
        self.seconds = 0.0
        self.stages: list[tuple[str, float]] = []
        self.found: dict[str, Any] = {
            "versions": versions(), "device": device_name(), "seed": seed, "recipe": RECIPE,
            "settings": SETTINGS, "checkpoint_seconds": float(SECONDS), "times_in_report": TIMES,
            "files_not_compared": TIMED, "kills": [],
        }  # fmt: skip

    def whole(self) -> None:
        """Two runs that nobody kills, in processes of their own."""
        self.seconds = self._to_its_end(self.expected)
        records = read_json(self.expected / "report.json")["stages"]
        self.stages = [(stage["name"], stage["seconds"]) for stage in records]
        twin = self.folder / "twin"
        seconds = self._to_its_end(twin)
        self.found |= {
            "seconds": [self.seconds, seconds],
            "stages": dict(self.stages),
            "uninterrupted_twice": compare(twin, self.expected),
        }
        self.write()

    def _to_its_end(self, out: Path) -> float:
        process = self.process.start(out, self.folder / f"{out.name}.log")
        code, seconds = process.finish()
        if code != 0:
            raise SystemExit(f"a run that nobody killed ended with {code}:\n" + "\n".join(process.said()))
        return seconds

    def kill(self, kind: str, *, stage: str | None = None, often: bool = False) -> None:
        """One run: killed as ``kind`` says, then run to its end and compared."""
        root, log = self.folder / "killed", self.folder / "killed.log"
        shutil.rmtree(root, ignore_errors=True)
        kills, resumed, spent, code = [], [], 0.0, None
        while code is None:
            process = self.process.start(root, log)
            age = self._kill(process, stage, often=often) if often or not kills else None
            if age is None:  # not to be killed, or it ended before
                code, age = process.finish()
            else:
                kills.append({"seconds": round(age, 2), "stage": process.stage})
            resumed += _resume_lines(process)
            spent += age
        if not kills:
            return self.kill(kind, stage=stage, often=often)
        row = {"kind": kind, "kills": kills, "went_on": resumed, "extra_seconds": round(spent - self.seconds, 1)}
        if code == 0:
            row |= compare(root, self.expected)
        else:
            row |= {"same": False, "exit_code": code, "said": process.said()[-3:]}
        self.found["kills"].append(row)
        self.write()
        print(json.dumps(row), flush=True)
        return None

    def _kill(self, process: Process, stage: str | None, *, often: bool) -> float | None:
        if stage is None:
            low, high = (0.1, 0.6) if often else (0.0, 1.0)
            return process.kill_after(self.draw.uniform(low, high) * self.seconds)
        while process.stage != stage and process.popen.poll() is None:
            time.sleep(0.02)
        age = time.monotonic() - process.started
        return process.kill_after(age + self.draw.random() * dict(self.stages)[stage])

    def write(self) -> None:
        kills = self.found["kills"]
        kinds = sorted({row["kind"] for row in kills})
        counted = {kind: [row["same"] for row in kills if row["kind"] == kind] for kind in kinds}
        summary = {kind: {"runs": len(same), "same": sum(same)} for kind, same in counted.items()}
        write_json(self.results, {**self.found, "summary": summary})


def _resume_lines(process: Process) -> list[str]:
    """The trainings that went on from a checkpoint, and where."""
    return [line for line in process.said() if RESUMED.match(line)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--kills", type=int, default=30, help="runs killed once, at a random instant")
    parser.add_argument("--often", type=int, default=4, help="runs killed again and again until they are through")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    study = Study(options.out, options.seed)
    study.whole()
    print(json.dumps({name: study.found[name] for name in ("seconds", "stages", "uninterrupted_twice")}), flush=True)
    for _ in range(options.kills):
        study.kill("at a random instant")
    for name, _ in study.stages:
        study.kill("within every stage", stage=name)
    for _ in range(options.often):
        study.kill("again and again", often=True)


if __name__ == "__main__":
    main()
