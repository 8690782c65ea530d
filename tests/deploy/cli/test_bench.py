"""The command as a user gives it, on real files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..conftest import Said

QUICK = ("--rounds", "40", "--sessions", "5", "--seconds", "2")


def test_a_run_is_timed_and_what_cannot_run_is_listed(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    out, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    runtimes = [word for name in ("onnxruntime-cpu", "pt2", "onnxruntime-cuda") for word in ("--runtime", name)]
    said = say("bench", finished.root, *runtimes, *QUICK, "--json", out, "--plot", picture)
    assert said.code == 0
    found = json.loads(out.read_text())
    assert found["schema"] == 1
    assert [(row["model"], row["runtime"]) for row in found["rows"]] == [
        ("slim", "pt2"),
        ("original", "onnxruntime-cpu"),
        ("slim", "onnxruntime-cpu"),
    ]
    for row in found["rows"]:
        reported = getattr(finished.report, row["model"])
        assert (row["macs"], row["test_accuracy"]) == (reported.macs, reported.test_accuracy)
    slim = found["rows"][2]
    assert slim["baseline"] == {"model": "original", "runtime": "onnxruntime-cpu"}
    assert 0 < slim["speedup"]["low"] <= slim["speedup"]["median"] <= slim["speedup"]["high"]
    assert slim["host_ms"]["median"] <= slim["host_ms"]["p90"] <= slim["host_ms"]["p99"]
    assert slim["host_memory_bytes"] > 10**5
    assert found["rows"][0]["baseline"]["runtime"] == "onnxruntime-cpu"
    skipped = {(item["model"], item["runtime"]): item["reason"] for item in found["skipped"]}
    assert skipped["original", "pt2"] == "there is no .pt2 file of it: export one"
    assert {"torch", "onnx", "python"} <= found["versions"].keys()
    assert {"processor", "before", "after", "stolen"} <= found["machine"].keys()
    lines = said.out.splitlines()
    assert lines[0].split() == [
        "model",
        "MACs",
        "test",
        "runtime",
        "batch",
        "threads",
        "median",
        "p90",
        "p99",
        "mean",
        "images/s",
        "memory",
        "speed-up",
        "verdict",
    ]
    assert "not run" in lines
    assert lines[-1] == f"verdict: {found['verdict']}"
    assert re.search(r"^slim .* pt2 .*\) \*  +", said.out, re.MULTILINE)
    assert "* slim in pt2, batch 1, 1 thread: times as fast as original in onnxruntime-cpu" in lines
    with Image.open(picture) as opened:
        assert opened.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runtime", "onnx"], "unknown runtime 'onnx'"),
        (["--batch", "0"], "--batch is '0': give whole numbers from 1 to 65,536"),
        (["--batch", "1,x"], "--batch is '1,x'"),
        (["--threads", "-1"], "--threads is '-1'"),
        (["--baseline", "fast"], "no model is called 'fast'"),
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--runtime", "tensorrt"], "nothing can run on this machine: original in tensorrt: "),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    say: Callable[..., Said], finished: Any, arguments: list[str], words: str
) -> None:
    said = say("bench", finished.root, *arguments)
    assert said.code == 2
    assert words in said.error
    assert said.error.count("\n") == 1


def test_images_that_hold_nan_are_refused(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((1, 3, 16, 16), np.nan, np.float32))
    said = say("bench", finished.root, "--images", tmp_path / "nan.npy")
    assert (said.code, "NaN or infinite" in said.error) == (2, True)


def test_a_missing_file_is_named(say: Callable[..., Said], tmp_path: Path) -> None:
    said = say("bench", tmp_path / "none.onnx")
    assert (said.code, "there is no " in said.error) == (2, True)
