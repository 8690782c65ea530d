from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slimsight.compress.config import DataConfig
from slimsight.compress.data import Batches, FileBatches, Flow, ImageSet, open_splits, shard_rows, to_batches
from slimsight.compress.data.augment import uniform_draws
from slimsight.compress.errors import DataError, RunError
from slimsight.compress.training import to_device

AUGMENTED = {"shuffle": True, "seed": 5, "crop_scale": (0.2, 1.0), "flip": True}
Make = Callable[..., FileBatches]


@pytest.fixture
def train(photos: Path, tmp_path: Path) -> ImageSet:
    """54 images of 16 pixels that stay files."""
    config = DataConfig(source="image_folder", path=photos, image_size=16, decode="on_the_fly", val_is_test=True)
    return open_splits(config, cache_dir=tmp_path / "cache", seed=0).train


@pytest.fixture
def make(train: ImageSet) -> Make:
    """``make(batch_size, ...)``: batches of them, decoded in this process unless workers are asked for."""

    def batches(batch_size: int = 40, **options: object) -> FileBatches:
        made = to_batches(train, batch_size, **{"workers": 0, **options})  # type: ignore[arg-type]
        assert isinstance(made, FileBatches)
        return made

    return batches


def pixels(batches: Batches, k: int = 0) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches.epoch(k)])


@pytest.mark.parametrize(
    ("size", "workers", "options"),
    [
        (40, 3, AUGMENTED),
        (4, 2, AUGMENTED),  # more chunks than there is room for at once
        (20, 1, {**AUGMENTED, "crop_scale": None, "crop_padding": 3}),
    ],
)
def test_batches_are_the_same_whatever_the_number_of_workers(
    make: Make, size: int, workers: int, options: dict[str, object]
) -> None:
    alone, together = (list(make(size, workers=count, **options).epoch(2)) for count in (0, workers))
    assert len(alone) == -(-54 // size)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
    assert multiprocessing.active_children() == []


def test_processes_decode_their_rows_of_every_batch(make: Make) -> None:
    whole = list(make(20, **AUGMENTED).epoch(1, 1))
    for rank in range(3):
        mine = list(make(20, **AUGMENTED).epoch(1, 1, sharding=shard_rows(rank, 3)))
        assert len(mine) == len(whole) == 2
        for one, all_of_it in zip(mine, whole, strict=True):
            assert one.part is not None
            rows = slice(one.part.start, one.part.stop)
            assert torch.equal(one.images, all_of_it.images[rows])
            assert torch.equal(one.labels, all_of_it.labels[rows])
            assert torch.equal(one.indices, all_of_it.indices[rows])


def test_an_epoch_depends_on_seed_number_and_position_only(make: Make) -> None:
    whole = pixels(make(40, **AUGMENTED), 3)
    state = torch.get_rng_state()
    assert torch.equal(pixels(make(7, **AUGMENTED), 3), whole)
    assert torch.equal(torch.get_rng_state(), state)  # a run's own random numbers are left alone
    later = list(make(7, **AUGMENTED).epoch(3, 2))
    assert torch.equal(torch.cat([batch.images for batch in later]), whole[14:])
    assert len(list(make(7, **AUGMENTED).epoch(3, 8))) == 0
    for other in (make(40, **AUGMENTED).epoch(4), make(40, **{**AUGMENTED, "seed": 6}).epoch(3)):
        assert not torch.equal(torch.cat([batch.images for batch in other]), whole)


def test_plain_batches_are_the_images(make: Make, train: ImageSet) -> None:
    batches = list(make(20))
    assert [len(batch.labels) for batch in batches] == [20, 20, 14]
    torch.testing.assert_close(pixels(make(20)), torch.from_numpy(train.images[:]), rtol=0, atol=0)
    assert torch.cat([batch.labels for batch in batches]).tolist() == train.labels.tolist()
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    ready = to_device(batches[0], torch.device("cpu")).images
    torch.testing.assert_close(ready, torch.from_numpy(train.images[:20]) / 255, rtol=0, atol=0)
    part = train.subset([50, 3, 11])
    (batch,) = to_batches(part, 3, workers=0).epoch(0)
    torch.testing.assert_close(batch.images, torch.from_numpy(part.images[:]), rtol=0, atol=0)
    assert (len(make(20, drop_last=True)), make(20, drop_last=True).count) == (2, 40)


def test_shifts_are_black_and_half_is_mirrored(make: Make) -> None:
    plain, mirrored = pixels(make()), pixels(make(flip=True))
    same = (plain == mirrored).flatten(1).all(1)
    assert torch.equal(mirrored[~same], plain[~same].flip(3))
    assert 15 < int(same.sum()) < 39
    shifted = pixels(make(crop_padding=4))
    rows = (shifted == 0).all(1).all(2)  # black over the whole width
    assert int(rows[:, [0, -1]].sum()) > 0
    assert not rows[:, 4:12].any()


def test_random_numbers_are_uniform_and_do_not_repeat() -> None:
    drawn = np.stack([uniform_draws(7, position) for position in range(500)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.std() == pytest.approx(12**-0.5, abs=0.01)
    assert len(np.unique(drawn)) == drawn.size
    assert not np.isin(uniform_draws(8, 0), drawn).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_ends_the_epoch_by_its_name(make: Make, photos: Path, workers: int) -> None:
    path = photos / "train/n02/n02_09.JPEG"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(
        DataError, match=r"^\S*/n02/n02_09\.JPEG cannot be decoded \([^\n]*\); replace it, or name it in"
    ):
        pixels(make(8, workers=workers, **AUGMENTED))
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_said_in_one_sentence(make: Make) -> None:
    batches = make(4, workers=1).epoch(0)
    next(batches)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(
        RunError, match=r"^a process that decodes images was killed .*set data\.workers lower .*and run again$"
    ):
        list(batches)


def test_workers_are_gone_when_batches_are_left(make: Make) -> None:
    for _ in make(4, workers=2).epoch(0):
        break
    assert multiprocessing.active_children() == []


SCRIPT = """
import multiprocessing, sys, time
from pathlib import Path
from slimsight.compress.config import DataConfig
from slimsight.compress.data import open_splits, to_batches
config = DataConfig(source="image_folder", path=Path(sys.argv[1]), image_size=16, decode="on_the_fly")
batches = to_batches(open_splits(config, cache_dir=Path(sys.argv[2]), seed=0).train, 4, workers=2).epoch(0)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told by Linux alone")
def test_workers_do_not_outlive_a_process_that_is_killed(photos: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(photos), str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 2
    while any(Path(f"/proc/{pid}/stat").exists() and _alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_waiting_and_computing_are_told_apart(make: Make) -> None:
    flow = Flow()
    for _ in make(20, flow=flow).epoch(0):
        time.sleep(0.05)
    assert flow.images == 54
    assert flow.seconds["computing"] == pytest.approx(0.15, abs=0.1)
    assert flow.seconds["waiting"] > 0
    assert flow.workers == 0


def test_images_in_memory_need_no_workers() -> None:
    images = ImageSet(np.zeros((5, 3, 8, 8), dtype=np.uint8), np.zeros(5, dtype=np.int64), ("a", "b"))
    batches = to_batches(images, 2, shuffle=True, seed=1, crop_scale=(0.1, 1), workers=3, flow=Flow())
    assert type(batches) is Batches
    assert batches.shuffle
    assert batches.seed == 1


def test_windows_of_decoded_images_are_those_of_their_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels_of_one = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels_of_one).save(tmp_path / "images" / name / f"{number}.png")

    def batches(decode: str) -> torch.Tensor:
        config = DataConfig(source="image_folder", path=tmp_path / "images", image_size=16, decode=decode)  # type: ignore[arg-type]
        train = open_splits(config, cache_dir=tmp_path / "cache", seed=0).train
        options = {"shuffle": True, "seed": 2, "crop_scale": (0.3, 0.9), "workers": 0}
        return torch.cat([to_device(batch, torch.device("cpu")).images for batch in to_batches(train, 5, **options)])

    assert torch.equal(batches("once"), batches("on_the_fly"))
