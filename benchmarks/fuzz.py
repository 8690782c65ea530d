"""Fuzz test of recipes, budgets, plans, reports and image lists with hypothesis.

    .venv/bin/python benchmarks/fuzz.py [--inputs 20000] [--kind recipe]

Each input is a valid file with up to four changes (a value replaced by another kind of value, a key gone, twice or
new, a piece of text cut out, doubled or put in between), or bytes without any sense. It goes through what the command
line does with such a file: a recipe is written and read again, a budget judged against a report, a plan carried out
on a network, a report rendered as a page and as Markdown, a list held against the images. Whatever is not a SlimError,
takes longer than its time limit, or opens, removes or starts anything outside of the folder of the input is counted,
with the first input that did it. Rows go to results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fuzz_inputs import BUDGET, EDITS, IMAGES, PLAN, RECIPE, REPORT, mutated, to_list, to_yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import nn

from slimsight.compress.data.lists import check_val_list, read_val_list
from slimsight.compress.errors import SlimError
from slimsight.compress.files.atomic import write_json
from slimsight.compress.surgery import PrunePlan, slim_
from slimsight.deploy.budget import TargetFigures, judge, load_budget
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.report import read_report
from slimsight.deploy.report.html.page import render_run
from slimsight.deploy.report.html.source import read_page
from slimsight.deploy.report.markdown import render_markdown
from slimsight.deploy.settings.recipe import dump_recipe, load_recipe

RESULTS = Path(__file__).resolve().parent / "results" / "fuzz.json"
SECONDS = 10.0
"""Most for one input; on a busy machine a page takes one."""

# --- what the command line does with such a file -----------------------------------------------------------------


def try_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    again = path.with_name("again.yaml")
    again.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe, "a recipe that is written is read differently"


def try_budget(path: Path) -> None:
    budget = load_budget(path)
    report = path.with_name("report.json")
    report.write_text(json.dumps(REPORT), encoding="utf-8")
    judge(TargetFigures.of_report(read_report(report), None), budget, None)


def try_plan(path: Path) -> None:
    plan = PrunePlan.load(path)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 2),
    ).eval()  # fmt: skip
    slim_(network, plan, torch.rand(1, 3, 8, 8))


def try_report(path: Path) -> None:
    render_markdown(read_report(path))
    render_run(read_page(path))


def try_list(path: Path) -> None:
    check_val_list(read_val_list(path), IMAGES, path=path)


Kind = tuple[Any, Callable[[Any], str], str, Callable[[Path], None]]
KINDS: Mapping[str, Kind] = {
    "recipe": (RECIPE, to_yaml, "recipe.yaml", try_recipe),
    "budget": (BUDGET, to_yaml, "budget.yaml", try_budget),
    "plan": (PLAN, json.dumps, "plan.json", try_plan),
    "report": (REPORT, json.dumps, "report.json", try_report),
    "list": (list(IMAGES[3:9]), to_list, "list.txt", try_list),
}


# --- what is watched ---------------------------------------------------------------------------------------------


class Hang(BaseException):
    """An input took longer than its time limit."""


class Watch:
    """Notes what happens outside of ``inside`` while ``on``: Python reports every file and process that it starts."""

    _CHANGES = frozenset(
        [
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.link",
            "os.symlink",
            "os.truncate",
            "os.chmod",
            "os.chown",
            "os.utime",
            "os.putenv",
            "shutil.rmtree",
            "subprocess.Popen",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "os.fork",
            "socket.connect",
            "pickle.find_class",
            "ctypes.dlopen",
        ]
    )

    def __init__(self) -> None:
        self.on, self.inside, self.seen = False, "", Counter[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(c in (mode or "") for c in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not str(path).startswith(self.inside):
                self.seen[f"open {path}"] += 1
        elif event in self._CHANGES and not str(arguments[0] if arguments else "").startswith(self.inside):
            self.seen[f"{event} {arguments[:1]}"] += 1


WATCH = Watch()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``Hang`` in the block after ``seconds``."""

    def stop(_number: int, _frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Found:
    """What came of the inputs of one kind. ``wrong``: by error and place, how often and the first input."""

    kind: str
    inputs: int = 0
    taken: int = 0
    refused: int = 0
    hangs: int = 0
    unclear: int = 0
    slowest_ms: float = 0.0
    wrong: dict[str, dict[str, Any]] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)

    def try_(self, content: bytes, folder: Path) -> None:
        _, _, name, use = KINDS[self.kind]
        path = folder / name
        path.write_bytes(content)
        self.inputs += 1
        started = time.monotonic()
        WATCH.inside, WATCH.on = str(folder), True
        try:
            with time_limit(SECONDS):
                use(path)
            self.taken += 1
        except SlimError as error:
            self.refused += 1
            self.unclear += not str(error).strip()
        except Hang:
            self.hangs += 1
            self._note("hang", content)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} ({Path(frame.filename).name}:{frame.lineno})"
            self._note(f"{type(error).__name__} at {where}: {str(error)[:120]}", content)
        finally:
            WATCH.on = False
        self.slowest_ms = max(self.slowest_ms, 1e3 * (time.monotonic() - started))

    def _note(self, what: str, content: bytes) -> None:
        entry = self.wrong.setdefault(what, {"count": 0, "first": repr(content[:4000])})
        entry["count"] += 1

    def to_dict(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("inputs", "taken", "refused", "hangs", "unclear")}
        more = {"slowest_ms": round(self.slowest_ms, 1), "tracebacks": sum(e["count"] for e in self.wrong.values())}
        return {"kind": self.kind, **counts, **more, "wrong": self.wrong, "outside": self.outside}


def fuzz(kind: str, inputs: int, *, first_seed: int = 0) -> Found:
    """Draw ``inputs`` files of ``kind`` and use each; a fifth of them are bytes without any sense."""
    tree, dump, _, _ = KINDS[kind]
    drawn = st.one_of(*[st.builds(mutated, st.just(tree), EDITS, st.just(dump))] * 4, st.binary(max_size=3000))
    found, number = Found(kind), first_seed
    WATCH.seen.clear()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        while found.inputs < inputs:

            @seed(number)
            @settings(
                max_examples=min(2000, inputs - found.inputs),
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(drawn)
            def once(content: bytes) -> None:
                found.try_(content, Path(place))

            once()
            number += 1
    found.outside = dict(WATCH.seen)
    return found


def main() -> None:
    """Fuzz every kind and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="of each kind")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="more than once; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    started = time.monotonic()
    for kind in options.kind or KINDS:
        rows.append(fuzz(kind, options.inputs).to_dict())
        row = rows[-1]
        print(f"{kind}: {row['inputs']} inputs, {row['taken']} taken, {row['refused']} refused, "
              f"{row['tracebacks']} tracebacks, {row['hangs']} hangs, {len(row['outside'])} outside, "
              f"slowest {row['slowest_ms']:.0f} ms", flush=True)  # fmt: skip
        for what, entry in row["wrong"].items():
            print(f"  {entry['count']} x {what}\n    {entry['first'][:300]}", flush=True)
    head = {"schema": 1, "device": device_name(), "versions": versions(), "seconds_limit": SECONDS}
    write_json(options.out, {**head, "seconds": round(time.monotonic() - started), "kinds": rows})


if __name__ == "__main__":
    main()
