"""What a stranger wrote is shown as text: in pages, Markdown, XML, annotations and terminals."""

import base64
import hashlib
import html
import json
import logging
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest

from slimsight.compress.files.untrusted import escape_controls, printable
from slimsight.deploy.cli.main import main
from slimsight.deploy.cli.terminal import LibraryMessages, console

EVIL = "<img src=x onerror=alert(1)></script><script>alert(1)</script>\x1b[2J\n::error::x [a](http://e) ![b](http://e)`'\"|\u202e\u2028\x85"
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def spiked(value: Any) -> Any:
    """Every free text of a report replaced."""
    if isinstance(value, dict):
        return {key: EVIL if key in FREE else spiked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [spiked(item) for item in value]
    return value


FREE = {"recipe", "device", "source", "name", "runtime", "artifact", "reason", "group", "explainer", "first_difference"}
MORE: dict[str, Any] = {
    "model": {"name": "n"},
    "channels": [{"group": "g", "total": 4, "kept": 2}],
    "gates": {"steer": EVIL, "steps": 3},
    "parity": [
        {
            "artifact": "a",
            "runtime": "r",
            "precision": "fp32",
            "batch": 1,
            "max_abs": 1.0,
            "p99_abs": 1.0,
            "top1_agreement": 0.5,
            "passed": False,
            "first_difference": "d",
        }
    ],
    "latency": [
        {
            "runtime": "r",
            "precision": EVIL,
            "threads": 1,
            "batch": 1,
            "original_ms": {"median": 1.0, "p90": 1.0, "p99": 1.0},
            "slim_ms": {"median": 2.0, "p90": 2.0, "p99": 2.0},
            "speedup": {"median": 0.5, "low": 0.4, "high": 0.6},
        }
    ],
    "saliency": {"explainer": "e", "center_drift_px": 1.0, "iou": 0.5, "images": 3},
    "stages": [{"name": "s", "seconds": 1.0, "reused": False}],
    "versions": {EVIL: EVIL},
}


class Tags(HTMLParser):
    """Elements that a browser would make, and attributes that would run."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.images, self.handlers = 0, 0, 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.handlers += any(name.startswith("on") for name, _ in attrs)


@pytest.fixture
def spiked_run(place: Any) -> Path:
    run: Path = place.run()
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    (run / "report.json").write_text(json.dumps(spiked(report | MORE)), encoding="utf-8")
    return run


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_pages(spiked_run: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert call("report", spiked_run, "--out", page) == 0
    assert call("report", template, "--out", tmp_path / "plain.html") == 0
    both = tmp_path / "both.html"
    assert call("report", spiked_run, template, "--out", both) == 0
    plain = Tags()
    plain.feed((tmp_path / "plain.html").read_text(encoding="utf-8"))
    for path in (page, both):
        found = Tags()
        text = path.read_text(encoding="utf-8")
        found.feed(text)
        assert "onerror" in text
        assert r"\x1b" in text
        assert r"\u202e" in text
        assert not HIDDEN.search(text)
        assert (found.scripts, found.images, found.handlers) == (plain.scripts, 0, 0)
        allowed = re.findall(r"'sha256-([^']+)'", html.unescape(text[text.index("script-src") : text.index("<script")]))
        written = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        assert allowed == [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in written]
    capsys.readouterr()


def test_markdown(spiked_run: Path) -> None:
    from slimsight.deploy.report import read_report
    from slimsight.deploy.report.markdown import render_markdown

    text = render_markdown(read_report(spiked_run))
    outside_code = re.sub(r"`[^`\n]*`", "", text.replace(r"\`", ""))
    assert "onerror" in text
    assert not re.search(r"(?<!\\)<\w|(?<!\\)</", outside_code)
    assert not re.search(r"(?<!\\)\[(?!95 % interval\])", outside_code)
    assert r"\x1b" in text
    assert r"\u202e" in text
    assert r"\u2028" in text
    assert not HIDDEN.search(text)
    assert "\n::error" not in text


def test_check_says_it_to_machines_and_terminals(
    place: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Layer names come from the file that is checked."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    model = onnx.load(place.run() / "slim" / "model.onnx")
    file = place.write("before.onnx", model.SerializeToString())
    model.graph.node[0].name = model.graph.node[0].output[0] = EVIL
    model.graph.node[1].input[0] = EVIL
    model.graph.node[0].input[1] = model.graph.initializer[0].name = f"::error::{EVIL}.weight"
    grown = place.write("after.onnx", model.SerializeToString())
    budget = place.write("budget.yaml", "macs: 1\ngrowth: 0%")
    junit, summary, result = (tmp_path / name for name in ("junit.xml", "summary.md", "check.json"))
    options = ("--junit", junit, "--summary", summary, "--json", result)
    assert call("check", grown, "--budget", budget, "--against", file, *options) == 1
    found = capsys.readouterr()
    assert "\x1b" not in found.out + found.err
    said = [line for line in (found.out + found.err).splitlines() if line.lstrip().startswith("::")]
    assert said
    assert all(line.startswith("::error file=") for line in said), said
    ElementTree.parse(junit)
    assert "\x1b" not in summary.read_text(encoding="utf-8") + junit.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<img", summary.read_text(encoding="utf-8"))
    json.loads(result.read_text(encoding="utf-8"))


def test_names_and_messages() -> None:
    assert printable("a\x1b[2J\nb\udcffc") == r"a\x1b[2J\nb\xffc"
    assert printable("x" * 999, 20) == "x" * 10 + "..." + "x" * 10
    assert escape_controls("one\n  ::error::two\x9b\u202e\u2028") == "one\n  : :error::two\\x9b\\u202e\\u2028"
    assert escape_controls("torch::Tensor ä 図") == "torch::Tensor ä 図"


def test_a_name_that_is_no_text(place: Any, refused: Callable[..., str]) -> None:
    """Bytes that are no UTF-8 cannot be printed as they are."""
    import os

    folder = place.folder / "images"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/\xff\xfe.jpg", "wb") as file:  # noqa: PTH123 - bytes
        file.write(b"x")
    assert r"\xff\xfe.jpg is not an image" in refused("bench", place.run() / "slim" / "model.onnx", "--images", folder)


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\x1b", r"\x1b"),
        ("\x85", r"\x85"),
        ("\u061c", r"\u061c"),
        ("\u200b", r"\u200b"),
        ("\u2028", r"\u2028"),
        ("\u202e", r"\u202e"),
        ("\u2066", r"\u2066"),
        ("\ufeff", r"\ufeff"),
        ("\uffff", r"\uffff"),
        ("\U000e0041", r"\U000e0041"),
        ("\u200d", "\u200d"),  # joins letters and emoji
        ("ä\n\t", "ä\n\t"),
    ],
)
def test_what_is_not_seen_is_shown_escaped(character: str, shown: str) -> None:
    assert escape_controls(f"a{character}b") == f"a{shown}b"


def test_logs_of_libraries_are_escaped(tmp_path: Path) -> None:
    with LibraryMessages() as messages:
        messages.to(tmp_path / "run.log")
        logging.getLogger("some.library").warning("class %s", "cat\x1b[2J\u202e\r")
    assert (tmp_path / "run.log").read_text(encoding="utf-8").endswith(": class cat\\x1b[2J\\u202e\\r\n")


def test_the_terminal_shows_what_it_would_drop(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("cat\r\x08\u202e")
    assert capsys.readouterr().out == "cat\\r\\x08\\u202e\n"
