"""What a power cut may leave, after every operation on files: the old run or the new one, never half of one.

Only what was synced is sure to be there. The disk keeps a file's last synced content, and a folder's last synced names;
of everything later any part may have reached it: here all of it, none, or a drawn part, with contents whole, cut off or
empty.
"""

import json
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import Damaged
from slimsight.compress.files.atomic import write_text
from slimsight.deploy.run_dir import RECIPE, REPORT, RunDir, open_run, read_run

Tree = dict[str, int | dict[str, Any]]


@dataclass
class Disk:
    """Synced content and names by inode; ``moments``: what was synced and seen before each operation."""

    root: Path
    content: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, dict[str, int]] = field(default_factory=dict)
    moments: list["Moment"] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)

    def hold(self, path: Path) -> int:
        """The inode of ``path``, which stays open: else its number would be given to another file."""
        number = path.lstat().st_ino
        if number not in self.held:
            self.held[number] = os.open(path, os.O_RDONLY)
        return number

    def now(self) -> tuple[dict[int, dict[str, int]], dict[int, bytes]]:
        """Names by folder and content by file, as every process sees them."""
        names, content = {}, {}
        for folder, folders, files in os.walk(self.root):
            place = Path(folder)
            names[self.hold(place)] = {name: self.hold(place / name) for name in (*folders, *files)}
            content |= {self.hold(place / name): (place / name).read_bytes() for name in files}
        return names, content

    def record(self, what: str) -> None:
        names, content = self.now()
        synced = {folder: dict(entries) for folder, entries in self.names.items()}
        self.moments.append(Moment(what, self.held_root(), synced, dict(self.content), names, content))

    def held_root(self) -> int:
        return self.root.lstat().st_ino

    def synced(self, handle: int) -> None:
        number = os.fstat(handle).st_ino
        names, content = self.now()
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            if number in names:
                self.names[number] = names[number]
        elif number in content:
            self.content[number] = content[number]


@dataclass(frozen=True)
class Moment:
    """The state before an operation: what is synced, and what is seen."""

    what: str
    root: int
    synced_names: dict[int, dict[str, int]]
    synced_content: dict[int, bytes]
    names: dict[int, dict[str, int]]
    content: dict[int, bytes]

    def leave(self, place: Path, draw: Callable[[], float]) -> None:
        """Write what a power cut leaves now to ``place``; ``draw() < 0.5``: an unsynced change has reached the disk."""
        self._folder(self.root, place, draw)

    def _folder(self, number: int, place: Path, draw: Callable[[], float]) -> None:
        place.mkdir()
        before, after = self.synced_names.get(number, {}), self.names.get(number, {})
        for name in before.keys() | after.keys():
            was, is_ = before.get(name), after.get(name)
            found = is_ if was == is_ or draw() < 0.5 else was
            if found is None:
                continue
            if found in self.names or found in self.synced_names:
                self._folder(found, place / name, draw)
            else:
                (place / name).write_bytes(self._content(found, draw))

    def _content(self, number: int, draw: Callable[[], float]) -> bytes:
        synced, seen = self.synced_content.get(number), self.content.get(number)
        if seen is None or seen == synced:  # unlinked since, or synced as it is
            return synced or b""
        if draw() < 0.5:
            return seen
        return (seen[: len(seen) // 2] if draw() < 0.5 else b"") if synced is None else synced


@contextmanager
def recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Everything that changes names or syncs is a moment of the disk."""
    disk = Disk(root)
    root.mkdir()
    disk.names = {disk.hold(root): {}}
    fsync = os.fsync

    def watched(name: str) -> Callable[..., Any]:
        work = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            disk.record(name)
            return work(*args, **options)

        return call

    def sync(handle: int) -> None:
        disk.record("fsync")
        fsync(handle)
        disk.synced(handle)

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, watched(name))
        patch.setattr(os, "fsync", sync)
        yield disk
        disk.record("end")
    for handle in disk.held.values():
        os.close(handle)


NEEDS = {"gates": (), "surgery": ("gates",)}
FILES = {"gates": "stages/gates/scores", "surgery": "slim/plan"}


def work(run: RunDir, recipe: str) -> None:
    """What a pipeline does: stages that hold are kept, the others forgotten, then done; then recipe and report."""
    held = {name: record for name in NEEDS if (record := run.valid_record(name, f"{name} of {recipe}"))}
    if len(held) < len(NEEDS):
        run.forget(REPORT)
        for name in NEEDS:
            if name not in held:
                run.forget(name)
        run.unrecord(RECIPE)
        write_text(run.recipe, recipe)
        run.finish(RECIPE, "", 0, {}, [run.recipe])
    for name, needs in NEEDS.items():
        inputs = {need: held[need].content for need in needs}
        if name not in held:
            run.begin(name)
            write_text(run.root / FILES[name], f"{name} of {recipe}, in full")
            held[name] = run.finish(name, f"{name} of {recipe}", 1.0, {}, [run.root / FILES[name]], inputs)
    run.unrecord(REPORT)
    write_text(run.report_json, json.dumps(recipe))
    run.finish(REPORT, "", 0, {}, [run.report_json], {name: record.content for name, record in held.items()})


def judged(root: Path) -> tuple[str | None, list[str]]:
    """The recipe on record and the stages that hold under it; nothing may hold under another recipe, or be half."""
    run = read_run(root, verify=False)
    recipe = run.recipe.read_text() if run.record(RECIPE) else None
    holds = []
    for name in NEEDS:
        record = run.record(name)
        if record is None or run.damage(name):
            continue
        said = record.fingerprint.removeprefix(f"{name} of ")
        assert (root / FILES[name]).read_text() == f"{name} of {said}, in full"
        assert run.valid_record(name, record.fingerprint)
        if recipe is not None:
            assert said == recipe, f"{name} is of recipe {said}, and recipe.yaml says {recipe}"
        holds.append(f"{name} of {said}")
    if run.record(REPORT) and not run.damage(REPORT):
        assert json.loads(run.report_json.read_text()) == recipe
        assert len(holds) == len(NEEDS)
    return recipe, holds


def draws(seed: int) -> Callable[[], float]:
    """Nothing unsynced reached the disk, everything did, or a drawn part."""
    if seed < 2:
        return lambda: 1.0 - seed
    return random.Random(seed).random


def test_a_power_cut_leaves_the_old_run_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    with recorded(root, monkeypatch) as disk:
        for recipe in ("first", "second"):
            with open_run(root) as run:
                work(run, recipe)
    kinds = {moment.what for moment in disk.moments}
    assert kinds == {"fsync", "replace", "unlink", "mkdir", "end"}
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody cuts the power of the replay
    seen = set()
    for number, moment in enumerate(disk.moments):
        for seed in range(8):
            place = tmp_path / f"{number}-{seed}"
            moment.leave(place, draws(seed))
            if any(place.iterdir()):
                with open_run(place):  # removes what was cut off
                    pass
                recipe, holds = judged(place)
                seen.add((recipe, len(holds)))
                if seed == 2:
                    with open_run(place) as run:
                        work(run, "second")
                    read_run(place)
                    assert judged(place) == ("second", ["gates of second", "surgery of second"])
    assert {("first", 1), ("first", 2), ("second", 0), ("second", 1), ("second", 2)} <= seen


def test_what_a_stage_finished_outlives_every_later_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    with recorded(root, monkeypatch) as disk, open_run(root) as run:
        run.begin("gates")
        write_text(run.slim / "model", "weights")
        run.finish("gates", "abc", 1.0, {"loss": 0.5}, [run.slim / "model"])
    for seed in range(16):
        place = tmp_path / str(seed)
        disk.moments[-1].leave(place, draws(seed))
        record = RunDir(place, writable=False).valid_record("gates", "abc")
        assert record is not None
        assert record.metrics == {"loss": 0.5}
        assert (place / "slim" / "model").read_text() == "weights"


@pytest.mark.parametrize("skipped", ["file", "folder"])
def test_without_a_sync_the_cut_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: str) -> None:
    """That the replay would notice: the same operations without one of the two syncs lose what was finished."""
    monkeypatch.setattr(f"slimsight.compress.files.atomic.sync_{skipped}", lambda _: None)
    root = tmp_path / "run"
    with recorded(root, monkeypatch) as disk, open_run(root) as run:
        run.begin("gates")
        write_text(run.slim / "model", "weights")
        run.finish("gates", "abc", 1.0, {}, [run.slim / "model"])
    disk.moments[-1].leave(tmp_path / "left", draws(0))
    left = RunDir(tmp_path / "left", writable=False)
    assert left.valid_record("gates", "abc") is None
    if skipped == "file":
        with pytest.raises(Damaged, match=r"done\.json .*; 'slimsight run RECIPE --out .* rebuilds it and keeps what"):
            left.check()
