"""Damage to a finished run: found before anything is used, named, and made anew from what is whole."""

import builtins
import errno
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from slimsight.compress.errors import Damaged
from slimsight.compress.files.atomic import read_tensors, write_tensors
from slimsight.compress.training import Learning
from slimsight.deploy import slim_folder
from slimsight.deploy.run.session import Outcome, Session
from slimsight.deploy.run.stages import learn, prove, slim
from slimsight.deploy.run_dir import read_run

from ..conftest import Said

NO_ARTEFACTS = {".slimsight", "run.log"}


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def redone(said: Said) -> list[str]:
    return re.findall(r"^stage \d+ of \d+: (\w+)$", said.err, re.MULTILINE)


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in NO_ARTEFACTS)
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_file_of_a_run_is_known_by_its_content(finished: Any, tmp_path: Path) -> None:
    root = finished.copy(tmp_path / "run")
    read_run(root)
    names = sorted(contents(root))
    assert len(names) > 40
    for name in names:
        path = root / name
        whole = path.read_bytes()
        for damage in ("first byte", "last byte", "cut", "zeros", "gone"):
            if damage == "gone":
                path.unlink()
            elif damage == "cut":
                path.write_bytes(whole[: len(whole) // 2])
            elif damage == "zeros":
                path.write_bytes(bytes(len(whole)))
            else:
                flip(path, damage == "last byte")
            if (name, damage) == ("stages/report/done.json", "gone"):
                read_run(root)  # what says which stages there are: the run is as if its report were still to be written
            else:
                with pytest.raises(Damaged) as found:
                    read_run(root)
                assert found.value.path == path, damage
            path.write_bytes(whole)
    read_run(root)


def test_every_command_that_reads_a_run_refuses_a_damaged_one(
    say: Callable[..., Said], finished: Any, tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "run")
    file, budget, image = root / "stages/selector/selector.safetensors", tmp_path / "budget.yaml", tmp_path / "a.png"
    budget.write_text("macs: 90%\n")
    image.touch()
    flip(file)
    before = contents(root)
    for command in (
        ["status", root],
        ["check", root, "--budget", budget],
        ["bench", root],
        ["export", root],
        ["explain", root, image],
        ["trust", root],
        ["report", root],
        ["report", root, finished.root, "--out", tmp_path / "both.html"],
    ):
        said = say(*command)
        assert said.code == 2
        assert re.fullmatch(
            rf"error: {file} was changed since it was written: its sha256 is \w{{12}}\.\.\., \w{{12}}\.\.\. was "
            rf"recorded; 'slimsight run RECIPE --out {root}' rebuilds it and keeps what is undamaged\n",
            said.error,
        ), command
        assert bool(said.out) == (command[0] == "status")  # shows which stage it is, too
    assert contents(root) == before


def test_run_again_names_what_is_damaged_and_redoes_that_stage_alone(
    say: Callable[..., Said], finished: Any, tiny: Path, tmp_path: Path
) -> None:
    root = finished.copy(tmp_path / "run")
    before = contents(root)
    for name, stage, anew in (
        ("stages/surgery/plan.json", ["surgery"], "stage 'surgery' is done again"),
        ("recipe.yaml", [], "the recipe is written anew"),
        ("saliency.png", [], "the report is written anew"),
    ):
        flip(root / name)
        said = say("run", tiny, "--out", root)
        assert said.code == 0
        assert redone(said) == stage
        first = said.err.splitlines()[0]
        assert first.startswith(f"{root / name} was changed since it was written: its sha256 is ")
        assert first.endswith(f": {anew}")
        read_run(root)
        after = contents(root)
        varies = {"report.json", "report.md", "report.html", "stages/surgery/done.json", "stages/report/done.json"}
        assert {path for path in before if after[path] != before[path]} <= varies
    (root / "stages/gates/done.json").write_text("{}")
    assert "stages/gates/done.json was changed since it was written" in say("status", root).error


@pytest.fixture
def copied(finished: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Stages copy what they would compute from the finished run; ``{stage: number}``: with other weights."""
    other: dict[str, int] = {}

    def copying(name: str) -> Callable[[Session, Learning], Outcome]:
        def work(session: Session, _learning: Learning) -> Outcome:
            record = read_run(finished.root).record(name)
            assert record is not None
            files = [session.run.root / file for file in record.files]
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes((finished.root / file.relative_to(session.run.root)).read_bytes())
                if name in other and file.suffix == ".safetensors":
                    write_tensors(file, {key: value + other[name] for key, value in read_tensors(file).items()})
            return Outcome(record.metrics, files)

        return work

    names = {
        learn: "classifier predictor selector targets gates",
        slim: "surgery finetune",
        prove: "export latency judgement",
    }
    for module, stages in names.items():
        for name in stages.split():
            monkeypatch.setattr(module, name, copying(name))
    monkeypatch.setattr("slimsight.deploy.run.pipeline.draw_pictures", lambda *_args: None)
    monkeypatch.setattr("slimsight.deploy.run.pipeline.draw_worst", lambda *_args: None)
    return other


def test_what_follows_is_redone_only_where_a_rebuilt_stage_gives_something_else(
    say: Callable[..., Said], finished: Any, tiny: Path, tmp_path: Path, copied: dict[str, int]
) -> None:
    root = finished.copy(tmp_path / "run")
    (root / "stages/gates/done.json").unlink()  # even where nothing says any more what it gave
    assert redone(say("run", tiny, "--out", root)) == ["gates"]
    flip(root / "stages/gates/scores.safetensors")
    copied["gates"] = 1
    said = say("run", tiny, "--out", root)
    assert redone(said) == ["gates", "surgery", "finetune", "export", "latency", "judgement"]
    assert "surgery: what it was made from has changed (gates)" in said.err
    read_run(root)


def test_a_stage_that_runs_out_of_memory_is_one_sentence_and_loses_nothing(
    say: Callable[..., Said], finished: Any, tiny: Path, tmp_path: Path, copied: dict[str, int], monkeypatch: Any
) -> None:
    assert copied == {}
    root = tmp_path / "run"

    def starve(*_: object) -> Outcome:
        torch.zeros(1 << 55, dtype=torch.uint8)
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(slim, "surgery", starve)
        said = say("run", tiny, "--out", root)
    assert said.code == 2
    assert said.error == (
        "error: stage 'surgery' ran out of memory; lower its batch_size, or free memory, and run again: what was "
        "finished is kept\n"
    )
    assert redone(say("run", tiny, "--out", root)) == ["surgery", "finetune", "export", "latency", "judgement"]


@contextmanager
def full_from(write: int, folder: Path) -> Iterator[None]:
    """From this write on there is no room in ``folder``; the log is not counted: it says more or less each time."""
    done, plain = 0, io.open

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal done
            done += 1
            if done >= write:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
            return super().write(data)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else ""
        if not name.startswith(str(folder)) or name.endswith("run.log") or "r" in mode:
            return plain(file, mode, buffering, *rest, **options)
        raw = Raw(file, mode.replace("b", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")

    builtins.open = io.open = opened  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.open = io.open = plain  # type: ignore[assignment]


def test_a_disk_that_is_full_at_any_write_loses_nothing_that_is_finished(
    say: Callable[..., Said], finished: Any, tiny: Path, tmp_path: Path, copied: dict[str, int]
) -> None:
    root, stopped, write = tmp_path / "run", 0, 1
    assert copied == {}
    while True:
        with full_from(write, root):
            said = say("run", tiny, "--out", root)
        if said.code != 2:
            break
        assert re.fullmatch(rf"error: (the disk is full: |cannot use |{root})[^\n]*\n", said.error), said.error
        assert not list(root.rglob("*.part"))
        stopped, write = stopped + 1, write + write // 2 + 1
    assert said.code == 0
    assert stopped >= 4
    read_run(root)
    varies = r"report\.\w+|.*\.png|panels/.*|stages/\w+/done\.json"
    expected = {name: sha for name, sha in contents(finished.root).items() if not re.fullmatch(varies, name)}
    assert {name: sha for name, sha in contents(root).items() if name in expected} == expected


def test_a_slim_folder_is_known_by_its_content(finished: Any, tmp_path: Path) -> None:
    root = finished.copy(tmp_path / "run")
    assert slim_folder.load(root / "slim")(torch.rand(2, 3, 16, 16)).shape == (2, 10)
    flip(root / "slim" / "model.pt2")
    with pytest.raises(Damaged, match=r"model\.pt2 was changed since it was written"):
        slim_folder.load(root / "slim")
