"""A few hundred inputs of what ``benchmarks/fuzz.py`` does a hundred thousand of."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fuzzing() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("fuzz")


@pytest.mark.parametrize(
    ("kind", "inputs"), [("recipe", 150), ("budget", 150), ("plan", 200), ("report", 150), ("list", 200)]
)
def test_no_traceback_no_hang_nothing_outside(kind: str, inputs: int, fuzzing: ModuleType) -> None:
    found = fuzzing.fuzz(kind, inputs, first_seed=1000)
    assert found.inputs == inputs
    assert (found.wrong, found.outside, found.hangs, found.unclear) == ({}, {}, 0, 0)
    assert found.refused > inputs / 4


def test_what_is_watched_is_seen(fuzzing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that writes elsewhere, hangs or raises something else is told of."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()

    def reader(path: Path) -> None:
        if path.read_bytes() == b"write":
            there.write_text("x", encoding="utf-8")
        elif path.read_bytes() == b"hang":
            while True:
                pass
        else:
            raise KeyError("x")

    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    monkeypatch.setitem(fuzzing.KINDS, "list", ([], str, "list.txt", reader))
    found = fuzzing.Found("list")
    fuzzing.WATCH.seen.clear()
    for content in (b"write", b"hang", b"raise"):
        found.try_(content, here)
    assert list(fuzzing.WATCH.seen) == [f"open {there}"]
    assert found.hangs == 1
    assert [what.partition(" ")[0] for what in found.wrong] == ["hang", "KeyError"]
