"""Full-disk tests: 20 runs whose disk fills up at a random write; does the next run end like an undisturbed one?

    .venv/bin/python benchmarks/full_disk.py [--trials 20] [--seed 0]

A run of seconds (short_run.py) in a process of its own each. From its n-th write on (n drawn uniformly from all writes
of such a run: of files, of the images' cache, of the log) nothing can be written or made any more, as the system would
say it (ENOSPC). The command must end with one sentence and exit code 2. Then there is room again, and the same
command must end with the plan, the weights (byte by byte) and the report (but times) of an uninterrupted run. Rows go
to results/full_disk.json.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from short_run import RECIPE, differing_files, write_recipe

from slimsight.compress.files.atomic import write_json
from slimsight.deploy.cli.main import main as slimsight
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run import pipeline  # imported once, for all runs

RESULTS = Path(__file__).resolve().parent / "results" / "full_disk.json"


class Disk:
    """Counts what is written below ``root``; from write number ``full`` on there is no room (None: there always is)."""

    def __init__(self, root: Path, full: int | None) -> None:
        self.root, self.full, self.writes = str(root), full, 0
        self.syncs, self.sync_seconds = 0, 0.0

    def write(self, path: object) -> None:
        """Before every write."""
        self.writes += 1
        if self.full is not None and self.writes >= self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def holds(self, path: object) -> bool:
        """Whether ``path`` is on it."""
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.root)

    def install(self) -> None:
        """From here on every file that this process opens to write is on it."""
        disk, plain_open, plain_mkdir, plain_sync = self, io.open, os.mkdir, os.fsync

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                disk.write(self.name)
                return super().write(data)

        def opened(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            *rest: Any,
        ) -> Any:
            if not disk.holds(file) or not set(mode) & set("wax+"):
                return plain_open(file, mode, buffering, encoding, errors, newline, *rest)
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

        def made(path: Any, *args: Any, **options: Any) -> None:
            if disk.holds(path):
                disk.write(path)
            plain_mkdir(path, *args, **options)

        def sent(*_args: Any) -> int:  # shutil then falls back on writing, which is counted
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))

        def synced(handle: int) -> None:
            started = time.perf_counter()
            plain_sync(handle)
            disk.sync_seconds += time.perf_counter() - started
            disk.syncs += 1

        builtins.open = io.open = opened  # type: ignore[assignment]
        os.mkdir, os.sendfile, os.fsync = made, sent, synced


def run_in_child(work: Callable[[], int], out: Path) -> int:
    """The exit code of ``work`` in a child, what it says in ``out``; 128 + signal where one ended it."""
    number = os.fork()
    if number == 0:
        with out.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            code = work()
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def run(folder: Path, full: int | None) -> tuple[int, dict[str, float], str]:
    """A run in ``folder``: exit code, what it cost, what it said."""
    counted, said = folder.with_suffix(".count"), folder.with_suffix(".txt")

    def work() -> int:
        torch.set_num_threads(1)
        disk = Disk(folder, full)
        os.environ["SLIMSIGHT_CACHE"] = str(folder / "cache")
        folder.mkdir(exist_ok=True)
        write = counted.open("w")
        disk.install()
        started = time.perf_counter()
        try:
            slimsight(["run", str(folder.parent / "tiny.yaml"), "--out", str(folder / "run")])
        finally:
            seconds = round(time.perf_counter() - started, 2)
            cost = {"writes": disk.writes, "syncs": disk.syncs, "sync_seconds": round(disk.sync_seconds, 3)}
            print(json.dumps({**cost, "seconds": seconds}), file=write)
            write.close()
        return 0

    code = run_in_child(work, said)
    return code, json.loads(counted.read_text()), said.read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    assert pipeline, "imported for the children"
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as place:
        write_recipe(Path(place))
        whole = Path(place) / "whole"
        code, cost, said = run(whole, None)
        assert code in (0, 1), said
        writes = int(cost["writes"])
        print(f"uninterrupted: {cost}", flush=True)
        draw = random.Random(given.seed)
        for trial in range(given.trials):
            full = draw.randint(1, writes)
            folder = Path(place) / f"trial-{trial:02d}"
            code, _, said = run(folder, full)
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            row = {
                "write": full,
                "code": code,
                "error": errors[-1].replace(str(folder), "") if errors else None,
                "one_sentence": len(errors) == 1 and said.rstrip().endswith(errors[0]) and "Traceback" not in said,
            }
            again, _, said = run(folder, None)
            row |= {"code_after": again, "differences": differing_files(folder / "run", whole / "run")}
            row["resumed"] = row["one_sentence"] and code == 2 and again in (0, 1) and not row["differences"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    passed = sum(row["resumed"] for row in rows)
    value = {
        "schema": 1,
        "device": device_name(),
        "versions": versions(),
        "seed": given.seed,
        "recipe": RECIPE,
        "uninterrupted": cost,
        "trials": len(rows),
        "resumed": passed,
        "rows": rows,
    }
    write_json(RESULTS, value)
    print(f"{passed} of {len(rows)} resumed after space was made: {RESULTS}")


if __name__ == "__main__":
    main()
