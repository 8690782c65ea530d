from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from slimsight.compress.data import cache
from slimsight.compress.data.cache import fingerprint, load_cached, read_cached
from slimsight.compress.data.decode import Decoded
from slimsight.compress.errors import DataError, RunError
from slimsight.compress.progress import SILENT, Silent


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class FakeSource:
    """Images of one value each; ``fails`` breaks off after three of them."""

    names: tuple[str, ...] = ("cat/0", "cat/1", "dog/0", "dog/1")
    splits: tuple[str, ...] = ("train", "test")
    one_pass: bool = False
    fails: bool = False
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def fingerprint(self, split: str) -> str:
        return fingerprint(split, names=self.names)

    def count(self, splits: Collection[str]) -> int:
        return len(self.names) * len(splits)

    def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
        self.asked.append(tuple(splits))
        for split in splits:
            for value, name in enumerate(self.names):
                if self.fails and value == 3:
                    raise DataError("dog/1 is corrupt")
                yield Decoded(split, name, np.full((3, 4, 4), value, dtype=np.uint8))


def test_images_are_decoded_once_and_then_mapped(tmp_path: Path) -> None:
    source = FakeSource()
    for _ in range(2):
        images, names = load_cached(source, "train", tmp_path, SILENT)
        assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
        assert images.images[0].shape == (3, 4, 4)
        assert images.labels.tolist() == [0, 0, 1, 1]
        assert images.labels.dtype == np.int64
        assert images.classes == ("cat", "dog")
        assert names == source.names
    assert source.asked == [("train",)]
    assert isinstance(images.images, np.ndarray)
    assert isinstance(images.images.base, np.memmap)
    assert not images.images.flags.writeable


def test_images_come_sorted_whatever_the_order_of_the_source(tmp_path: Path) -> None:
    images, names = load_cached(FakeSource(names=("dog/1", "cat/0", "dog/0")), "train", tmp_path, SILENT)
    assert names == ("cat/0", "dog/0", "dog/1")
    assert images.images[:][:, 0, 0, 0].tolist() == [1, 2, 0]
    assert images.labels.tolist() == [0, 1, 1]


def test_one_pass_fills_every_split_that_is_absent(tmp_path: Path) -> None:
    source = FakeSource(one_pass=True)
    load_cached(source, "train", tmp_path, SILENT)
    load_cached(source, "test", tmp_path, SILENT)
    assert source.asked == [("train", "test")]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dog/1 is corrupt"):
        load_cached(FakeSource(fails=True, one_pass=True), "train", tmp_path, SILENT)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache._NpyAppender, "add", no_room)
    with pytest.raises(RunError, match=r"the disk is full: .*images\.npy could not be written; free some space"):
        load_cached(FakeSource(), "train", tmp_path, SILENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damaged", ["images.npy", "labels.npy", "meta.json"])
@pytest.mark.parametrize("kept", [0, 60])
def test_a_damaged_cache_is_decoded_again(tmp_path: Path, damaged: str, kept: int) -> None:
    source = FakeSource()
    load_cached(source, "train", tmp_path, SILENT)
    file = tmp_path / source.fingerprint("train") / damaged
    file.write_bytes(file.read_bytes()[:kept])
    images, _ = load_cached(source, "train", tmp_path, SILENT)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert source.asked == [("train",)] * 2


@pytest.mark.parametrize("clock", [1.0, 4e9])
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path, clock: float) -> None:
    """Whatever the time of change: a clock may have been set back or forward."""
    source = FakeSource()
    writing, written, leave = (threading.Event() for _ in range(3))

    class Slow(FakeSource):
        def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
            for item in super().stream(splits):
                yield item
                writing.set()
                assert leave.wait(20)

    def die() -> None:
        with cache._new_cache_folder(tmp_path / "killed") as writer:
            writer.add("cat/0", np.zeros((3, 4, 4), np.uint8))
            os.kill(os.getpid(), signal.SIGKILL)

    killed = multiprocessing.get_context("fork").Process(target=die)
    killed.start()
    killed.join()
    (left,) = tmp_path.glob(".killed.*.part")
    slow = threading.Thread(
        target=lambda: (load_cached(Slow(names=("cat/0", "dog/0", "dog/1")), "test", tmp_path, SILENT), written.set())
    )
    slow.start()
    assert writing.wait(20)
    for path in (*tmp_path.rglob("*"),):
        os.utime(path, (clock, clock))
    load_cached(source, "train", tmp_path, SILENT)
    assert not left.exists()
    leave.set()
    slow.join()
    assert written.is_set()
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == ["test-", "train"]


def test_where_there_are_no_locks_nothing_of_others_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    other = tmp_path / ".train-1.1-1.part"
    other.mkdir()
    (other / "lock").touch()
    images, _ = load_cached(FakeSource(), "train", tmp_path, SILENT)
    assert len(images) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, FakeSource().fingerprint("train")]


def test_a_changed_byte_is_named_and_the_images_are_decoded_again(tmp_path: Path) -> None:
    source, progress = FakeSource(), Notes()
    load_cached(source, "train", tmp_path, SILENT)
    place = tmp_path / source.fingerprint("train")
    assert sorted(path.name for path in place.iterdir()) == ["digests.npy", "images.npy", "labels.npy", "meta.json"]
    for name in ("images.npy", "labels.npy", "digests.npy", "meta.json"):
        there = (place / name).read_bytes()
        for position in (0, len(there) // 2, len(there) - 1):
            (place / name).write_bytes(there[:position] + bytes([there[position] ^ 1]) + there[position + 1 :])
            load_cached(source, "train", tmp_path, progress)
            assert (place / name).read_bytes() == there
            assert progress.notes[-1].startswith(f"{place / name} was changed since it was written")
            assert progress.notes[-1].endswith(": the images are decoded again")
    assert len(progress.notes) == 12


def test_a_large_file_is_read_once_and_again_when_it_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, progress = FakeSource(), Notes()
    load_cached(source, "train", tmp_path, SILENT)
    monkeypatch.setattr(cache, "ALWAYS_VERIFIED", 100)
    read_files: list[str] = []
    real = cache.find_damage
    monkeypatch.setattr(cache, "find_damage", lambda path, **sums: read_files.append(path.name) or real(path, **sums))
    for _ in range(2):
        load_cached(source, "train", tmp_path, SILENT)
    assert read_files == ["images.npy", "labels.npy", "digests.npy"]
    images = tmp_path / source.fingerprint("train") / "images.npy"
    images.write_bytes(images.read_bytes()[:-1] + b"x")
    load_cached(source, "train", tmp_path, progress)
    assert [note.split(" ")[0] for note in progress.notes] == [str(images)]


def test_two_processes_that_find_the_same_damage_end_with_one_whole_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    source = FakeSource()
    load_cached(source, "train", tmp_path, SILENT)
    damaged = tmp_path / source.fingerprint("train") / "labels.npy"
    met = context.Barrier(3)

    class Meeting(FakeSource):
        def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
            met.wait(20)  # all have seen the damage, none has mended it
            yield from super().stream(splits)

    def build() -> None:
        images, _ = load_cached(Meeting(), "train", tmp_path, SILENT)
        assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]

    for _ in range(3):
        damaged.write_bytes(b"no array")
        builders = [context.Process(target=build) for _ in range(3)]
        for builder in builders:
            builder.start()
        for builder in builders:
            builder.join()
        assert [builder.exitcode for builder in builders] == [0, 0, 0]
        assert [path.name for path in tmp_path.iterdir()] == [source.fingerprint("train")]
        assert read_cached(tmp_path / source.fingerprint("train")) is not None


def test_builders_at_the_same_time_end_with_one_whole_cache(tmp_path: Path) -> None:
    meet = threading.Barrier(4)

    class Meeting(FakeSource):
        def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
            meet.wait(timeout=60)
            yield from super().stream(splits)
            meet.wait(timeout=60)

    values: list[list[int]] = []

    def build() -> None:
        images, _ = load_cached(Meeting(), "train", tmp_path, SILENT)
        values.append(images.images[:, 0, 0, 0].tolist())

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [[0, 1, 2, 3]] * 4
    assert [path.name for path in tmp_path.iterdir()] == [FakeSource().fingerprint("train")]


def test_fingerprints_tell_splits_and_facts_apart() -> None:
    names = {fingerprint(split, bytes=size) for split in ("train", "test") for size in (1, 2)}
    assert len(names) == 4
    assert fingerprint("train", bytes=1) == fingerprint("train", bytes=1)


def test_an_absent_cache_reads_as_none(tmp_path: Path) -> None:
    assert read_cached(tmp_path / "absent") is None
