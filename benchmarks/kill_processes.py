"""Kill tests of runs with two processes: the next run ends with the same bits.

    .venv/bin/python benchmarks/kill_processes.py --out runs/kill_processes [--kills 10] [--seed 0]

As ``kill.py``, whose recipe and comparison it takes, with ``--devices 2``. SIGKILL goes to one of the two, the other,
or to both, drawn for each run; what started them must then end by itself, with exit code 130 and one sentence. The run
is started again with two processes. Once more runs go on with another number: begun with two they are ended by one, and
the other way round; those must come to the same plan, and to weights that differ by rounding. Results go to
results/kill_processes.json after every run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import ClassVar

from kill import Process, Study
from processes import largest_difference

from slimsight.compress.files.atomic import read_json, read_tensors

RESULTS = Path(__file__).resolve().parent / "results" / "kill_processes.json"
INTERRUPTED = 130


class Ranks(Process):
    """A ``slimsight run`` in two processes."""

    options: ClassVar[tuple[str, ...]] = ("--devices", "2")
    victims: tuple[int, ...] = (0,)
    ended: dict[str, object] | None = None

    def ranks(self) -> list[int]:
        """Their process numbers, by rank."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text(encoding="ascii").split()
        found = {}
        for child in children:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            rank = [each for each in variables if each.startswith(b"RANK=")]
            if rank:
                found[int(rank[0].removeprefix(b"RANK="))] = int(child)
        return [found[rank] for rank in sorted(found)]

    def kill_after(self, seconds: float) -> float | None:
        """SIGKILL to the victims at that age; its age then, None if it had ended or not begun."""
        while (left := seconds - (time.monotonic() - self.started)) > 0 or len(self.ranks()) < 2:
            if self.popen.poll() is not None:
                return None
            time.sleep(max(0.01, min(left, 0.05)))
        ranks, age = self.ranks(), time.monotonic() - self.started
        for victim in self.victims:
            os.kill(ranks[victim], signal.SIGKILL)
        code = self.popen.wait(timeout=60)
        said = [line for line in self.said() if line.startswith("error: ")]
        self.ended = {
            "victims": list(self.victims),
            "exit_code": code,
            "seconds_to_end": round(time.monotonic() - self.started - age, 1),
            "said": said,
        }
        return age if code != 0 else None


class RanksStudy(Study):
    """Its runs have two processes."""

    process = Ranks
    results = RESULTS

    def _kill(self, process: Process, stage: str | None, *, often: bool) -> float | None:
        assert isinstance(process, Ranks)
        process.victims = self.draw.choice(((0,), (1,), (0, 1)))
        age = super()._kill(process, stage, often=often)
        if process.ended is not None and age is not None:
            self.found.setdefault("ends", []).append(process.ended)
        return age

    def change_number(self) -> None:
        """Begun by two processes and ended by one, and the other way round."""
        for first, second in ((Ranks, Process), (Process, Ranks)):
            root, log = self.folder / "changed", self.folder / "changed.log"
            shutil.rmtree(root, ignore_errors=True)
            process = first.start(root, log)
            age = process.kill_after(self.draw.uniform(0.3, 0.6) * self.seconds)
            stage = process.stage
            code, _ = second.start(root, log).finish()
            if code:
                raise SystemExit(f"the run ended with {code}")
            plans = [read_json(place / "slim" / "plan.json") for place in (root, self.expected)]
            weights = [read_tensors(place / "slim" / "model.safetensors") for place in (root, self.expected)]
            row = {
                "begun_by": 2 if first is Ranks else 1,
                "ended_by": 2 if second is Ranks else 1,
                "killed_after_seconds": age,
                "in_stage": stage,
                "same_plan": plans[0] == plans[1],
                "weights": largest_difference(*weights) if plans[0] == plans[1] else None,
            }
            self.found.setdefault("another_number", []).append(row)
            self.write()
            print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--kills", type=int, default=10, help="runs killed once, at a random instant")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    study = RanksStudy(options.out, options.seed)
    study.whole()
    print(json.dumps({name: study.found[name] for name in ("seconds", "stages", "uninterrupted_twice")}), flush=True)
    for _ in range(options.kills):
        study.kill("at a random instant")
    study.change_number()
    assert all(each["exit_code"] == INTERRUPTED and len(each["said"]) == 1 for each in study.found["ends"])


if __name__ == "__main__":
    main()
