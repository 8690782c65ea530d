"""Damage tests: one byte flipped in each kind of file of a run; which command detects it, and with which message.

    .venv/bin/python benchmarks/bit_flips.py [--seed 0]

A run of seconds (short_run.py) with its dynamic variant, then `slimsight export` (ONNX, pt2; a TensorRT for RTX engine
where that is installed), `slimsight trust`, a folder that the Python API saved, and the caches. Every file that lies
there is damaged in four ways: a byte flipped (first, last and a drawn place), cut to half, filled with zeros, removed.
Each time the commands that read it are called as a user would; found is what ends with exit code 2 and names the file,
or, of a cache, what names the file and makes it anew. Of every kind of file in the run one is then rebuilt by
`slimsight run`, which has to leave the bytes that were there before. Rows go to results/bit_flips.json.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from finished_run import FinishedRun, run_command

from slimsight.compress.files.atomic import write_json
from slimsight.deploy.machine import device_name, versions

RESULTS = Path(__file__).resolve().parent / "results" / "bit_flips.json"
WAYS = ("byte first", "byte last", "byte drawn", "cut to half", "zeros", "gone")
NOT_ARTEFACTS = {
    ".slimsight": "empty: who writes the run",
    "run.log": "what was said; nothing reads it",
    "ran-here": "whose names are what counts: of code that was run here",
}


def artefact_kind(name: str) -> str:
    """``run/panels/explained-03.webp`` -> ``run/panels/explained-N.webp``; a folder of the cache by its split."""
    return re.sub(r"-[0-9a-f]{24}", "", re.sub(r"-\d\d\.", "-N.", name))


def damaged_versions(data: bytes, draw: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """What may have happened to a file of ``data``; None: it is gone."""
    for what, place in (("first", 0), ("last", len(data) - 1), ("drawn", draw.randrange(len(data)))):
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        yield f"byte {what}", bytes(flipped)
    yield "cut to half", data[: len(data) // 2]
    yield "zeros", bytes(len(data))
    yield "gone", None


def is_detected(name: str, kept: Path, code: int, said: str) -> bool:
    """Whether damage was found: refused, or (a cache) named and made anew; and the file named."""
    remade = name.startswith("cache/") and code == 0
    return (code == 2 or remade) and kept.name in said


def study_damage(place: FinishedRun, draw: random.Random) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for every file and damage, and the files that are no artefacts or read by nothing."""
    files = sorted(path for path in place.root.rglob("*") if path.is_file() and path.parent != place.root)
    rows, left = [], []
    for path in files:
        name = path.relative_to(place.root).as_posix()
        if NOT_ARTEFACTS.keys() & {path.name, path.parent.name} or (
            name.startswith("run/trust/") and path.suffix == ".png"
        ):
            left.append(name)
            continue
        data = path.read_bytes()
        command, find = place.finder(name)
        for what, damaged in damaged_versions(data, draw):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            code, said = find()
            lines = [line for line in said.splitlines() if path.name in line]
            rows.append(
                {
                    "kind": artefact_kind(name),
                    "file": name,
                    "damage": what,
                    "command": command,
                    "code": code,
                    "found": is_detected(name, path, code, said),
                    "message": lines[-1].replace(str(place.root), "") if lines else said[-300:],
                }
            )
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    return rows, left


def study_refusals(place: FinishedRun) -> list[dict[str, Any]]:
    """Every other command that reads a run, on one damaged file."""
    path = place.run / "slim" / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    rows = []
    for command, call in place.others().items():
        code, said = call()
        message = said[said.find("error: ") :].strip().replace(str(place.root), "")
        found = code == 2 and path.name in message and "\n" not in message and "slimsight run" in message
        rows.append({"command": command, "code": code, "found": found, "message": message})
    path.write_bytes(data)
    return rows


def study_repairs(place: FinishedRun) -> list[dict[str, Any]]:
    """A flipped byte in each file that stages made, and in each record: `slimsight run` names it and redoes a stage."""
    rows = []
    stages = json.loads((place.run / "stages" / "report" / "done.json").read_text())["inputs"]
    wanted = {}
    for stage in stages:
        record = place.run / "stages" / stage / "done.json"
        named = [place.run / name for name in json.loads(record.read_text())["files"]]
        wanted |= dict.fromkeys((*named, record), stage)
    wanted[place.run / "recipe.yaml"] = ""
    for path, stage in wanted.items():
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        code, said = place.start()
        redone = re.findall(r"^stage \d+ of \d+: (\w+)", said, re.MULTILINE)
        same = path.read_bytes() == data
        rows.append(
            {
                "file": path.relative_to(place.run).as_posix(),
                "stage": stage,
                "redone": redone,
                "named": path.name in said,
                "code": code,
                "same_bytes": same,
                "whole": run_command("status", place.run)[0] == 0,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        place = FinishedRun(Path(folder))
        place.make()
        rows, left = study_damage(place, random.Random(given.seed))
        refused = study_refusals(place)
        repaired = study_repairs(place)
    kinds = sorted({row["kind"] for row in rows})
    missed = [row for row in rows if not row["found"]]
    value = {
        "schema": 1,
        "device": device_name(),
        "versions": versions(),
        "seed": given.seed,
        "kinds": len(kinds),
        "files": len({row["file"] for row in rows}),
        "damaged": len(rows),
        "found": len(rows) - len(missed),
        "flips": sum(row["damage"].startswith("byte") for row in rows),
        "flips_found": sum(row["found"] for row in rows if row["damage"].startswith("byte")),
        "not_artefacts": left,
        "rows": [count_and_first(kind, what, rows) for kind in kinds for what in WAYS],
        "missed": missed,
        "refused": refused,
        "repaired": repaired,
    }
    write_json(RESULTS, value)
    print(
        f"{value['found']} of {len(rows)} found in {value['files']} files of {len(kinds)} kinds "
        f"({value['flips_found']} of {value['flips']} flipped bytes); "
        f"{sum(row['found'] for row in refused)} of {len(refused)} other commands refuse; "
        f"{sum(row['whole'] for row in repaired)} of {len(repaired)} files rebuilt: {RESULTS}"
    )
    for row in missed:
        print(row)


def count_and_first(kind: str, what: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first row of a kind and damage, with how many there are and were found."""
    these = [row for row in rows if row["kind"] == kind and row["damage"] == what]
    return {**these[0], "files": len(these), "found": sum(row["found"] for row in these)}


if __name__ == "__main__":
    main()
