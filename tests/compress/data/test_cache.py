from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from compress.data import cache
from compress.data.cache import fingerprint, load, read
from compress.data.decode import Decoded
from compress.errors import DataError, RunError
from compress.progress import SILENT


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
        images, names = load(source, "train", tmp_path, SILENT)
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
    images, names = load(FakeSource(names=("dog/1", "cat/0", "dog/0")), "train", tmp_path, SILENT)
    assert names == ("cat/0", "dog/0", "dog/1")
    assert images.images[:][:, 0, 0, 0].tolist() == [1, 2, 0]
    assert images.labels.tolist() == [0, 1, 1]


def test_one_pass_fills_every_split_that_is_absent(tmp_path: Path) -> None:
    source = FakeSource(one_pass=True)
    load(source, "train", tmp_path, SILENT)
    load(source, "test", tmp_path, SILENT)
    assert source.asked == [("train", "test")]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dog/1 is corrupt"):
        load(FakeSource(fails=True, one_pass=True), "train", tmp_path, SILENT)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache._Writer, "add", no_room)
    with pytest.raises(RunError, match=r"the disk is full: .*images\.npy could not be written; free some space"):
        load(FakeSource(), "train", tmp_path, SILENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damaged", ["images.npy", "labels.npy", "meta.json"])
@pytest.mark.parametrize("kept", [0, 60])
def test_a_damaged_cache_is_decoded_again(tmp_path: Path, damaged: str, kept: int) -> None:
    source = FakeSource()
    load(source, "train", tmp_path, SILENT)
    file = tmp_path / source.fingerprint("train") / damaged
    file.write_bytes(file.read_bytes()[:kept])
    images, _ = load(source, "train", tmp_path, SILENT)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert source.asked == [("train",)] * 2


def test_what_a_killed_process_left_is_not_read_and_goes_after_a_day(tmp_path: Path) -> None:
    source = FakeSource()
    old, recent = (tmp_path / f".{source.fingerprint('train')}.{number}.part" for number in (1, 2))
    for folder in (old, recent):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"half")
    for path in (old, old / "images.npy"):
        os.utime(path, (1, 1))
    load(source, "train", tmp_path, SILENT)
    assert source.asked == [("train",)]
    assert not old.exists()
    assert recent.exists()


def test_builders_at_the_same_time_end_with_one_whole_cache(tmp_path: Path) -> None:
    meet = threading.Barrier(4)

    class Meeting(FakeSource):
        def stream(self, splits: Collection[str]) -> Iterator[Decoded]:
            meet.wait(timeout=10)
            yield from super().stream(splits)
            meet.wait(timeout=10)

    values: list[list[int]] = []

    def build() -> None:
        images, _ = load(Meeting(), "train", tmp_path, SILENT)
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
    assert read(tmp_path / "absent") is None
