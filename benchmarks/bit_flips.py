"""One byte flipped in each kind of artefact of a run: which command finds it, and what it says.

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
import contextlib
import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from short_run import write_recipe

from compress.data import open_splits
from compress.errors import SlimError
from compress.files import write_json
from compress.gates.latency import TimedLayer
from compress.models import build_classifier
from compress.progress import Silent
from compress.surgery import PrunePlan
from deploy.cli import main as slimsight
from deploy.machine import device_name, versions
from deploy.recipe import load_recipe
from deploy.run_dir import read_run
from deploy.slim_folder import Slimmed, load, save
from export.layer_times import cached_times

RESULTS = Path(__file__).resolve().parent / "results" / "bit_flips.json"
DYNAMIC = ("dynamic.enabled=true", "dynamic.epochs=2", "dynamic.finetune_epochs=1", "dynamic.verify_images=10")
WAYS = ("byte first", "byte last", "byte drawn", "cut to half", "zeros", "gone")
NOT_ARTEFACTS = {".slimsight": "empty: who writes the run", "run.log": "what was said; nothing reads it"}


def said_by(*arguments: object) -> tuple[int, str]:
    """Exit code of a command, and what it said."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            slimsight([str(argument) for argument in arguments])
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
    return code, out.getvalue()


def kind_of(name: str) -> str:
    """``run/panels/explained-03.webp`` -> ``run/panels/explained-N.webp``; a folder of the cache by its split."""
    return re.sub(r"-[0-9a-f]{24}", "", re.sub(r"-\d\d\.", "-N.", name))


def damages(data: bytes, draw: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """What may have happened to a file of ``data``; None: it is gone."""
    for what, place in (("first", 0), ("last", len(data) - 1), ("drawn", draw.randrange(len(data)))):
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        yield f"byte {what}", bytes(flipped)
    yield "cut to half", data[: len(data) // 2]
    yield "zeros", bytes(len(data))
    yield "gone", None


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Place:
    """A finished run, what commands made of it, and the caches, in one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.run, self.cache, self.saved = root, root / "run", root / "cache", root / "saved"
        os.environ["SLIMSIGHT_CACHE"] = str(self.cache)
        self.layer_times = self.cache / "layer_times" / "times.json"

    def make(self) -> None:
        """Everything that there is to be damaged."""
        self.done(self.start())
        self.done(said_by("export", self.run, "--to", "onnx,pt2,tensorrt-rtx"))
        self.done(self.trust())
        (self.root / "budget.yaml").write_text("macs: 90%\n")
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.root / "image.png")
        self.times()
        model = self.original()
        plan = PrunePlan.load(read_run(self.run).plan)
        save(Slimmed(load(self.run / "slim", model), plan, torch.rand(2, 3, 16, 16), 0, 0.0), self.saved)

    def done(self, found: tuple[int, str]) -> None:
        assert found[0] in (0, 1), found[1]

    def start(self) -> tuple[int, str]:
        words = [word for setting in DYNAMIC for word in ("--set", setting)]
        return said_by("run", write_recipe(self.root), "--out", self.run, *words)

    def trust(self) -> tuple[int, str]:
        return said_by("trust", self.run, "--with", "gradient", "--images", 8, "--tests", "perturbation")

    def original(self) -> Any:
        config = load_recipe(self.run / "recipe.yaml").model.model_copy(update={"weights": None})
        return build_classifier(config, 10)

    def times(self) -> tuple[int, str]:
        """What a run with a latency budget reads first."""
        notes = Notes()
        layer = TimedLayer((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (8, 8), 1, 8, 8)
        cached_times([layer], self.layer_times, threads=1, batch=1, progress=notes)
        return 0, "\n".join(notes.notes)

    def load(self) -> tuple[int, str]:
        try:
            load(self.saved, self.original())
        except SlimError as error:
            return error.exit_code, str(error)
        return 0, ""

    def images(self) -> tuple[int, str]:
        """What every run reads first."""
        notes, config = Notes(), load_recipe(self.run / "recipe.yaml")
        open_splits(config.data, cache_dir=self.cache, seed=config.seed, progress=notes).test()
        return 0, "\n".join(notes.notes)

    def finder(self, name: str) -> tuple[str, Callable[[], tuple[int, str]]]:
        """The command that has to find damage in a file."""
        if name.startswith("cache/layer_times"):
            return "run, with a latency budget", self.times
        if name.startswith("cache/"):
            return "run", self.images
        if name.startswith("saved/"):
            return "api.load", self.load
        if name.startswith("run/trust/"):
            return "trust", self.trust
        return "status", lambda: said_by("status", self.run)

    def others(self) -> dict[str, Callable[[], tuple[int, str]]]:
        """The other commands that read a run; each is shown one damaged file of every kind of record."""
        return {
            "check": lambda: said_by("check", self.run, "--budget", self.root / "budget.yaml"),
            "bench": lambda: said_by("bench", self.run),
            "export": lambda: said_by("export", self.run, "--to", "onnx"),
            "explain": lambda: said_by("explain", self.run, self.root / "image.png"),
            "report": lambda: said_by("report", self.run),
            "trust": self.trust,
        }


def found_in(name: str, kept: Path, code: int, said: str) -> bool:
    """Whether damage was found: refused, or (a cache) named and made anew; and the file named."""
    remade = name.startswith("cache/") and code == 0
    return (code == 2 or remade) and kept.name in said


def study(place: Place, draw: random.Random) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for every file and damage, and the files that are no artefacts or read by nothing."""
    files = sorted(path for path in place.root.rglob("*") if path.is_file() and path.parent != place.root)
    rows, left = [], []
    for path in files:
        name = path.relative_to(place.root).as_posix()
        if path.name in NOT_ARTEFACTS or (name.startswith("run/trust/") and path.suffix == ".png"):
            left.append(name)
            continue
        data = path.read_bytes()
        command, find = place.finder(name)
        for what, damaged in damages(data, draw):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            code, said = find()
            lines = [line for line in said.splitlines() if path.name in line]
            rows.append(
                {
                    "kind": kind_of(name),
                    "file": name,
                    "damage": what,
                    "command": command,
                    "code": code,
                    "found": found_in(name, path, code, said),
                    "message": lines[-1].replace(str(place.root), "") if lines else said[-300:],
                }
            )
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    return rows, left


def refusals(place: Place) -> list[dict[str, Any]]:
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


def repairs(place: Place) -> list[dict[str, Any]]:
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
                "whole": said_by("status", place.run)[0] == 0,
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
        place = Place(Path(folder))
        place.make()
        rows, left = study(place, random.Random(given.seed))
        refused = refusals(place)
        repaired = repairs(place)
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
        "rows": [first_of(kind, what, rows) for kind in kinds for what in WAYS],
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


def first_of(kind: str, what: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first row of a kind and damage, with how many there are and were found."""
    these = [row for row in rows if row["kind"] == kind and row["damage"] == what]
    return {**these[0], "files": len(these), "found": sum(row["found"] for row in these)}


if __name__ == "__main__":
    main()
