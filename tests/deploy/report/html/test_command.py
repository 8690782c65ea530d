"""``slimsight report`` as a user gives it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Folders = Callable[..., Path]


def test_a_run_gets_its_page(say: Callable[..., Any], content: dict[str, Any], to_folder: Folders) -> None:
    root = to_folder("digits", content)
    said = say("report", root)
    assert (said.code, said.out, said.err) == (0, f"report: {root / 'report.html'}\n", "")
    assert "<title>resnet20: passed, 49.9 % of the MACs</title>" in (root / "report.html").read_text(encoding="utf-8")
    other = root / "elsewhere" / "page.html"
    assert say("report", root / "report.json", "--out", other).out == f"report: {other}\n"
    assert other.read_bytes() == (root / "report.html").read_bytes()


def test_several_runs_are_compared(
    say: Callable[..., Any], content: dict[str, Any], to_folder: Folders, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    first = to_folder("first", content)
    content["verdict"]["passed"] = content["verdict"]["checks"][0]["passed"] = False
    second = to_folder("second", content)
    said = say("report", first, second)
    assert (said.code, said.out) == (0, "report: comparison.html\n")  # it compares; 'check' judges
    assert "Comparison of 2 runs" in Path("comparison.html").read_text(encoding="utf-8")


def test_runs_of_the_same_name_are_told_apart(
    say: Callable[..., Any], content: dict[str, Any], to_folder: Folders, tmp_path: Path
) -> None:
    folders = [to_folder(f"{parent}/run", content) for parent in ("one", "two")]
    say("report", *folders, "--out", tmp_path / "c.html")
    html = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "A: one/run" in html
    assert "B: two/run" in html


def test_wrong_usage_is_one_sentence(
    say: Callable[..., Any], content: dict[str, Any], to_folder: Folders, tmp_path: Path
) -> None:
    root = to_folder("run", content)
    (tmp_path / "empty").mkdir()
    for arguments, sentence in (
        ([root, root / "."], f"{root} is given twice; give every run that is to be compared once"),
        (
            [root, "--out", tmp_path],
            f"--out {tmp_path} is a folder; give the file to write, e.g. {tmp_path}/report.html",
        ),
        (
            [tmp_path / "none"],
            f"{tmp_path}/none does not exist; give the folder of a run (the --out of 'slimsight run')",
        ),
        (
            [root, tmp_path / "empty", "--out", tmp_path / "c.html"],
            f"no report at {tmp_path}/empty/report.json: the run has not finished; run 'slimsight run' to complete it",
        ),
    ):
        said = say("report", *arguments)
        assert (said.code, said.out, said.error) == (2, "", f"error: {sentence}\n")
    assert not (tmp_path / "c.html").exists()
    assert say("report").code == 2


def test_a_page_of_a_finished_run_needs_no_plotting() -> None:
    heavy = "{'matplotlib', 'scipy', 'sklearn'}"
    code = f"import sys, slimsight.deploy.report.html; print(*sorted(sys.modules.keys() & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
