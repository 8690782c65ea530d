import fcntl
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slimsight.deploy.cli.progress import ConsoleProgress

from ..conftest import Said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--frob"], "No such option: --frob"),
        (["check", "runs/x"], "Missing option '--budget'"),
        (["inspect", "resnet20"], "Missing option '--input'"),
    ],
)
def test_wrong_usage_is_said_in_a_few_lines(say: Callable[..., Said], arguments: list[str], words: str) -> None:
    said = say(*arguments)
    assert said.code == 2
    assert words in said.out + said.err


def test_help_and_version(say: Callable[..., Said]) -> None:
    said = say("--help")
    assert (said.code, said.err) == (0, "")
    assert all(f"  {command} " in said.out for command in ("run", "inspect", "check", "status"))
    assert re.fullmatch(r"slimsight \d+\.\d+\.\d+\n", say("--version").out)


def test_help_answers_at_once() -> None:
    heavy = "{'torch', 'numpy', 'matplotlib', 'pydantic'}"
    code = f"import sys, slimsight.deploy.cli.main; print(*sorted(sys.modules.keys() & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.usefixtures("undrawn")
def test_a_run_ends_with_its_figures_and_the_place_of_its_report(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, finished: Any
) -> None:
    root = finished.copy(tmp_path / "run")
    said = say("run", tiny, "--out", root)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[-1] == f"report: {root / 'report.html'}"
    places = lines[lines.index(f"in {root}:") + 1 : lines.index("", lines.index(f"in {root}:"))]
    assert [place.split()[0] for place in places][:4] == ["report.html", "report.md", "report.json", "recipe.yaml"]
    assert "slim/model.onnx" in [place.split()[0] for place in places]
    assert all((root / place.split()[0]).is_file() for place in places)
    table = {name: cells for name, *cells in (re.split(r"\s{2,}", line.strip()) for line in lines[1:8])}
    assert table["MACs"] == ["0.36 M", "0.18 M", f"{100 * finished.report.slim.macs / 359744:.2f} % kept"]
    assert table["test accuracy"][0] == f"{100 * finished.report.original.test_accuracy:.2f} %"
    assert table["latency, batch 1"][2].endswith("x)")
    assert table["explanations"][0].startswith("moved ")
    assert sum(line.startswith("ok     ") for line in lines) == len(finished.report.verdict.checks) == 4
    assert said.err.startswith("done before: classifier, predictor, selector, targets, gates, surgery,")
    assert "done before: classifier" in (root / "run.log").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_run_says_where_it_is_without_a_terminal(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, finished: Any, overrides: list[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say("run", tiny, *overrides, "--set", "export.formats=[onnx]")
    assert said.code in (0, 1)
    assert "\r" not in said.err
    assert "\x1b" not in said.err + said.out
    for number, stage in enumerate(("classifier", "gates", "surgery", "finetune", "export", "latency", "judgement"), 1):
        assert f"stage {number} of 7: {stage}\n" in said.err
    assert re.search(r"^classifier: 2,560 img in [\d.]+ s, [\d,]+ img/s, loss [\d.]+", said.err, re.MULTILINE)
    assert (tmp_path / "runs" / "tiny" / "report.md").is_file()
    assert say("status", "runs/tiny").out.splitlines()[-1] == "report: runs/tiny/report.html"


@pytest.mark.usefixtures("undrawn")
def test_a_failed_check_is_exit_1_and_still_says_where_the_report_is(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, finished: Any
) -> None:
    root = finished.copy(tmp_path / "run")
    said = say("run", tiny, "--out", root, "--set", "export.tolerance=1e-12", "--set", "export.formats=[onnx]")
    assert said.code == 1
    rows = 4 * (2 if find_spec("openvino") else 1)  # two files at two batch sizes, in each runtime
    assert re.search(
        rf"^FAILED parity, rows passed: 0 \(at least {rows}\): failed: original.onnx in", said.out, re.MULTILINE
    )
    assert said.error == f"error: 1 of 4 checks failed, see the lines marked FAILED; report: {root / 'report.html'}\n"
    assert "**FAILED**" in (root / "report.md").read_text()


def test_check_holds_a_run_against_a_budget_file(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    budget = tmp_path / "budget.yaml"
    budget.write_text(
        "macs: 50%\nparams: 90%\nsize: 90%\naccuracy: 20%\naccuracy_drop: 90%\nparity: true\nspeedup: 0.1\n"
    )
    said = say("check", finished.root, "--budget", budget)
    assert (said.code, said.err) == (0, "")
    assert sum(line.startswith("ok     ") for line in said.out.splitlines()) == 7
    assert said.out.endswith("\nall 7 checks passed\n")
    budget.write_text("layers:\n  net.*: {macs: 1M}\n")
    said = say(
        "check", finished.root, "--budget", budget, "--json", tmp_path / "found.json", "--against", finished.root
    )
    assert re.search(r"\nok      MACs of net\.\S+ \(most of 6 in net\.\*\) ", said.out)
    assert "no layer changed" in said.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"] == finished.report.slim.macs
    budget.write_text("macs: 49%\nparity: true\n")
    said = say("check", finished.root, "--budget", budget)
    assert said.code == 1
    assert re.search(r"\n\nFAILED  MACs +0\.18 M +at most 0\.18 M|FAILED  MACs +1[\d,]+ +at most 1[\d,]+", said.out)
    assert said.error == f"error: 1 of 2 checks failed: MACs; report: {finished.root / 'report.md'}\n"


def test_check_wants_a_finished_run_and_a_budget_that_means_something(
    say: Callable[..., Said], finished: Any, tmp_path: Path
) -> None:
    budget = tmp_path / "budget.yaml"
    said = say("check", finished.root, "--budget", budget)
    assert (said.code, said.error) == (2, f"error: no budget file at {budget}: check --budget\n")
    budget.write_text("mcas: 50%\n")
    assert "mcas: unknown key; allowed: macs, params, " in say("check", finished.root, "--budget", budget).error
    budget.write_text("macs: 50%\n")
    said = say("check", finished.unfinished(tmp_path / "run"), "--budget", budget)
    assert said.code == 2
    assert "the run has not finished; run 'slimsight run' to complete it" in said.error
    said = say("check", tmp_path / "nothing", "--budget", budget)
    assert (said.code, "does not exist: give a run directory, an ONNX or .pt2 file, or" in said.error) == (2, True)


def test_status_tells_what_is_done_and_who_is_at_it(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    root = finished.unfinished(tmp_path / "run", "export")
    lines = say("status", root).out.splitlines()
    assert [line.split()[:2] for line in lines[1:11]] == [
        [stage, "-" if stage == "export" else "done"] for stage in (record.name for record in finished.report.stages)
    ]
    assert lines[-1].startswith("not finished, and no process is working on it")
    with (root / ".slimsight").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        assert say("status", root).out.splitlines()[-1] == "process 4711 is working on it"
        step = {"note": "stage 5 of 10: gates", "step": "gates (rbf): 40 %, 7 s left\x1b[31m"}
        (root / "progress.json").write_text(json.dumps(step), encoding="utf-8")
        expected = "process 4711 is working on it: stage 5 of 10: gates; gates (rbf): 40 %, 7 s left\\x1b[31m"
        assert say("status", root).out.splitlines()[-1] == expected
        (root / "progress.json").write_text("[" * 20_000, encoding="utf-8")
        assert say("status", root).out.splitlines()[-1] == "process 4711 is working on it"
    said = say("status", tmp_path)
    assert (said.code, "is not the folder of a run" in said.error) == (2, True)


def test_what_only_reads_files_imports_no_torch(finished: Any, tmp_path: Path) -> None:
    budget = tmp_path / "budget.yaml"
    budget.write_text("macs: 100M\n")
    code = """
import sys
from slimsight.deploy.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("\\nexit code", end.code or 0, sorted({"torch", "onnxruntime", "matplotlib"} & sys.modules.keys()))
"""
    model = str(finished.root / "slim/model.onnx")
    for command in (("status", str(finished.root)), ("check", model, "--budget", str(budget)), ("schema", "recipe")):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "exit code 0 []"


def test_all_mistakes_of_a_recipe_are_said_at_once(say: Callable[..., Said], tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("modle: {name: resnet20}\ngates: {steeps: 3}\ndata: {source: image_folder}\n")
    said = say("run", recipe, "--out", tmp_path / "out", "--set", "explainer.enabled=false")
    assert said.code == 2
    head, *lines = said.error.splitlines()
    assert head == f"error: the recipe {recipe} cannot be used:"
    assert lines[0].startswith("  line 1: modle: unknown key; allowed: seed, ")
    assert lines[0].endswith("did you mean 'model'?")
    assert lines[1].startswith("  line 2: gates.steeps: unknown key; allowed: steer, ")
    assert lines[1].endswith("did you mean 'steps'?")
    assert lines[2] == "  line 3: data: source 'image_folder' needs 'path': the folder that holds the images"
    assert not (tmp_path / "out").exists()


def test_gates_cannot_be_steered_without_an_explainer(say: Callable[..., Said], tiny: Path, tmp_path: Path) -> None:
    said = say("run", tiny, "--out", tmp_path / "out", "--set", "explainer.enabled=false")
    assert said.code == 2
    assert "gates.steer is rbf and explainer.enabled is false: only an explainer can steer the gates" in said.error
    assert not (tmp_path / "out").exists()


def test_a_missing_recipe_names_those_that_are_there(say: Callable[..., Said], tiny: Path) -> None:
    said = say("run", tiny.with_name("tinny.yaml"))
    assert said.code == 2
    assert said.error.endswith("; did you mean 'tiny.yaml'? (recipes in " + f"{tiny.parent}: tiny.yaml)\n")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of ten images to learn from, and four to test."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "images"


def test_images_that_cannot_be_used_are_named(
    say: Callable[..., Said], tiny: Path, images: Path, tmp_path: Path, overrides: list[str]
) -> None:
    out = tmp_path / "out"
    data = f"data={{source: image_tree, path: {images}}}"

    def run() -> Said:
        return say("run", tiny, "--out", out, *overrides, "--set", data)

    for split in ("train", "test"):
        (images / split / "empty").mkdir()
    said = run()
    assert said.code == 2
    assert f"class folder {images / 'train' / 'empty'} holds no images" in said.error
    for split in ("train", "test"):
        (images / split / "empty").rmdir()
    broken = images / "train" / "cat" / "3.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    said = run()
    assert said.code == 2
    assert re.match(
        rf"error: {re.escape(str(broken))} cannot be decoded \(.*\); replace or remove it \('slimsight init", said.error
    )
    assert not (out / "recipe.yaml").exists()
    broken.write_bytes(whole)

    # A broken test image, too, is found before anything is learned.
    broken = images / "test" / "dog" / "1.png"
    broken.write_bytes(b"no image")
    said = run()
    assert said.code == 2
    assert said.error.startswith(f"error: {broken} is not an image that can be read; replace or remove it")
    assert not (out / "recipe.yaml").exists()
    broken.write_bytes(whole)
    said = run()
    assert said.code in (0, 1)
    assert (out / "report.json").is_file()


def test_a_budget_out_of_reach_names_the_smallest_before_anything_is_learned(
    say: Callable[..., Said], tiny: Path, tmp_path: Path
) -> None:
    said = say("run", tiny, "--out", tmp_path / "out", "--set", "budget.macs=0.002")
    assert said.code == 2
    assert re.search(
        r"the smallest plan has 0\.\d+ M MACs \(\d\.\d%\); raise budget\.macs to at least 0\.\d+; frozen groups: ",
        said.error,
    )
    assert "stage 1" not in said.err


@pytest.mark.usefixtures("undrawn")
def test_a_run_in_use_names_its_process(say: Callable[..., Said], tiny: Path, tmp_path: Path, finished: Any) -> None:
    root = finished.copy(tmp_path / "run")
    with (root / ".slimsight").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        said = say("run", tiny, "--out", root)
    assert said.code == 2
    assert said.error.startswith(f"error: {root} is in use by process 4711; wait until it ends")
    assert say("run", tiny, "--out", root).code == 0


@pytest.mark.usefixtures("undrawn")
def test_overrides_and_a_donor_reach_the_run(
    say: Callable[..., Said], tiny: Path, tmp_path: Path, finished: Any
) -> None:
    out = tmp_path / "out"
    said = say("run", tiny, "--out", out, "--reuse", finished.root, "--set", "latency.rounds=25")
    assert said.code == 0
    assert f"judgement: taken from {finished.root}\n" in said.err
    assert "stage 9 of 10: latency\n" in said.err
    assert said.err.count("stage ") == 1
    said = say("run", tiny, "--out", out, "--reuse", tmp_path / "nobody")
    assert (said.code, "nobody does not exist" in said.error) == (2, True)


def test_the_progress_of_a_command_is_closed_whatever_happens(
    say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(ConsoleProgress, "close", lambda self: closed.append(self))
    assert say("run", tmp_path / "none.yaml").code == 2
    assert len(closed) == 1


def test_what_a_model_prints_is_no_part_of_a_result(say: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n\nprint('at import')\n\n\n"
        "class Loud(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)\n\n"
        "    def forward(self, x):\n"
        "        print('in forward')\n"
        "        return self.b(self.a(x).mean((2, 3)))\n\n\n"
        "def build():\n"
        "    print('in the factory')\n"
        "    return Loud()\n"
    )
    (tmp_path / "b.yaml").write_text("macs: 100M\n")
    arguments = (f"{tmp_path / 'm.py'}:build", "--input", "3x8x8", "--budget", tmp_path / "b.yaml", "--json", "-")
    said = say("check", *arguments)
    assert said.code == 0, said
    assert json.loads(said.out)["passed"] is True
    assert {"at import", "in the factory", "in forward"} <= set(said.err.splitlines())
