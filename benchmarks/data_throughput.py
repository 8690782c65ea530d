"""Images read from files on the fly: time of the index, memory, and batches per second.

    python benchmarks/imagenet_layout.py /tmp/inet --classes 1000 --images 50
    python benchmarks/data_throughput.py /tmp/inet [--workers 2 --rounds 7 --images 3072]

Decode alone: as many processes as workers, each decoding its half of the same files with the same random windows, with
nobody to hand the pixels to. Batches: ``FileBatches`` of 128 augmented images, as bytes, taken as fast as they come.
Once for every number of workers up to the one given: with as many as there are cores, the process that takes the
batches has none of its own. The two take turns; the figure is the ratio of their images per second, with a bootstrap
interval over rounds; beside it that of the CPU seconds that all processes take together, which says the same where
cores are not free. Files lie in the page cache: the first round is not counted. Memory: the sum of the proportional
set sizes (PSS) of the process that takes the batches and of its workers, sampled every 50 ms over the start of an
epoch, with PyTorch itself in it. Decoders: PIL (as used: reduced while decoding where it can be) against torchvision's,
one image of each size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from decoders import SHORT, SIDE, measure_decoders

from slimsight.compress.config import DataConfig
from slimsight.compress.data import FileBatches, ImageSet, Splits, open_splits, to_batches
from slimsight.compress.data.augment import epoch_key, uniform_draws
from slimsight.compress.files.atomic import write_json
from slimsight.deploy.machine import device_name, versions

RESULTS = Path(__file__).resolve().parent / "results" / "data_throughput.json"
BATCH, SCALE = 128, (0.08, 1.0)
WARM = 6
"""Batches of an epoch before those that are timed."""


def to_config(root: Path) -> DataConfig:
    """As the recipes for ImageNet read it."""
    return DataConfig(
        source="image_folder",
        path=root,
        image_size=SIDE,
        decode="on_the_fly",
        resize=SHORT,
        crop_scale=SCALE,
        val_fraction=0.02,
        test_labels=root / "val.txt",
    )


def measure_index(config: DataConfig, repeats: int = 3) -> dict[str, Any]:
    """Seconds of the first start and of a second one; the directory is in the system's cache."""
    first, second = [], []
    for _ in range(repeats):
        cache = Path(tempfile.mkdtemp())
        for seconds in (first, second):
            started = time.perf_counter()
            splits = open_splits(config, cache_dir=cache, seed=0)
            files = len(splits.train) + len(splits.val) + len(splits.test())
            seconds.append(time.perf_counter() - started)
        taken = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        shutil.rmtree(cache)
    return {
        "files": files,
        "classes": len(splits.classes),
        "first_seconds": statistics.median(first),
        "second_seconds": statistics.median(second),
        "cache_bytes": taken,
    }


def batches_of(splits: Splits, workers: int, images: ImageSet | None = None) -> FileBatches:
    """Training batches, augmented; of all training images or of these."""
    made = to_batches(
        images or splits.train,
        BATCH,
        shuffle=True,
        seed=0,
        crop_scale=SCALE,
        flip=True,
        drop_last=True,
        workers=workers,
    )
    assert isinstance(made, FileBatches)
    return made


def rate_of_batches(batches: FileBatches, images: int) -> float:
    """Images per second of an epoch under way: its first batches, whose memory is new, do not count."""
    taken = images // BATCH
    epoch = batches.epoch(0)
    for _ in range(WARM):
        next(epoch)
    started = time.perf_counter()
    for number, _ in enumerate(epoch, 1):
        if number == taken:
            break
    seconds = time.perf_counter() - started
    epoch.close()  # type: ignore[attr-defined]
    return taken * BATCH / seconds


def _decode(batches: FileBatches, rows: Any, first: int, start: Barrier, end: Barrier) -> None:
    key = epoch_key(0, 0)
    start.wait()
    for number, row in enumerate(rows):
        batches.augmentation.read(batches.files, int(row), uniform_draws(key, first + number))
    end.wait()


def rate_of_decoding(batches: FileBatches, images: int, processes: int) -> float:
    """Images per second of processes that decode the epoch's first images and nothing else."""
    order = torch.cat([batch.indices for batch in _indices(batches, images)]).numpy()
    start, end = multiprocessing.Barrier(processes + 1), multiprocessing.Barrier(processes + 1)
    parts = np.array_split(np.arange(len(order)), processes)
    workers = [
        multiprocessing.Process(target=_decode, args=(batches, batches.rows[order[part]], int(part[0]), start, end))
        for part in parts
    ]
    for worker in workers:
        worker.start()
    start.wait()
    started = time.perf_counter()
    end.wait()
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return len(order) / seconds


def _indices(batches: FileBatches, images: int) -> Iterator[Any]:
    """The order of the epoch's first images, without decoding any."""
    from slimsight.compress.data.batches import Batch, epoch_generator

    order = torch.randperm(len(batches.images), generator=epoch_generator(batches.seed, 0))[:images]
    yield Batch(torch.empty(0), torch.empty(0), order)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure_cpu(splits: Splits, workers: int, images: int) -> dict[str, float]:
    """CPU milliseconds per image of all processes together: what handing pixels over costs."""
    whole = batches_of(splits, workers, splits.train.subset(np.arange(0, len(splits.train), 7)[:images]))
    found = []
    for work in (lambda: rate_of_decoding(whole, images, workers), lambda: sum(1 for _ in whole.epoch(0))):
        before = cpu_seconds()
        work()
        found.append((cpu_seconds() - before) / images)
    return {"decode_cpu_ms": 1e3 * found[0], "batches_cpu_ms": 1e3 * found[1]}


def proportional_set_size(pid: int) -> int:
    """Bytes: private memory and its share of what it has in common with others."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


@contextmanager
def peak_memory(found: dict[str, int]) -> Iterator[None]:
    """Into ``found``: the largest sum of this process and its children."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            children = [child.pid for child in multiprocessing.active_children() if child.pid]
            total = sum(map(proportional_set_size, (os.getpid(), *children)))
            if total > found.get("peak", 0):
                found.update(peak=total, processes=1 + len(children))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure_memory(splits: Splits, workers: int, images: int) -> dict[str, Any]:
    """Peak over some batches, beside what the process had before any."""
    before = proportional_set_size(os.getpid())
    found: dict[str, int] = {}
    with peak_memory(found):
        rate_of_batches(batches_of(splits, workers), images)
    return {"workers": workers, "before_bytes": before, "peak_bytes": found["peak"], "processes": found["processes"]}


def measure_rates(splits: Splits, workers: int, rounds: int, images: int) -> dict[str, Any]:
    """Both in turn; the first round warms up."""
    batches, rows = batches_of(splits, workers), []
    for number in range(rounds + 1):
        forms: list[Callable[[], float]] = [
            lambda: rate_of_decoding(batches, images, workers),
            lambda: rate_of_batches(batches, images),
        ]
        order = (0, 1) if number % 2 else (1, 0)
        found = {which: forms[which]() for which in order}
        if number:
            rows.append((found[0], found[1]))
    cpu = [measure_cpu(splits, workers, images // BATCH * BATCH) for _ in range(3)]
    spent = {name: statistics.median(each[name] for each in cpu) for name in cpu[0]}
    ratios = np.array([batch / alone for alone, batch in rows])
    draws = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return {
        "workers": workers,
        "images": images,
        "rounds": rounds,
        "decode_alone_per_second": statistics.median(alone for alone, _ in rows),
        "batches_per_second": statistics.median(batch for _, batch in rows),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(low),
        "ratio_high": float(high),
        "ratios": [float(ratio) for ratio in ratios],
        **spent,
        "cpu_ratio": spent["decode_cpu_ms"] / spent["batches_cpu_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a folder of imagenet_layout.py")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=3072)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = to_config(given.root)
    index = measure_index(config)
    print(f"index: {index['first_seconds']:.2f} s, then {index['second_seconds']:.3f} s, {index['files']:,} files")
    with tempfile.TemporaryDirectory() as cache:
        splits = open_splits(config, cache_dir=Path(cache), seed=0)
        memory = measure_memory(splits, given.workers, given.images)
        print(f"memory: {memory['peak_bytes'] / 1e9:.2f} GB, {memory['before_bytes'] / 1e9:.2f} GB before")
        rates = [measure_rates(splits, workers, given.rounds, given.images) for workers in range(1, given.workers + 1)]
    for row in rates:
        ratio = f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"
        print(
            f"{row['workers']} workers: decode {row['decode_alone_per_second']:,.0f} images/s, batches "
            f"{row['batches_per_second']:,.0f}: {ratio}, "
            f"CPU {row['decode_cpu_ms']:.2f} and {row['batches_cpu_ms']:.2f} ms an image: {row['cpu_ratio']:.3f}"
        )
    decoders = measure_decoders()
    for row in decoders:
        print(f"{row['width']}x{row['height']}: PIL {row['pil_ms']:.2f} ms, torchvision {row['torchvision_ms']:.2f} ms")
    machine = {"device": device_name(), "cores": os.cpu_count(), "versions": versions(), "pillow": PIL.__version__}
    write_json(
        RESULTS, {"schema": 1, **machine, "index": index, "memory": memory, "rates": rates, "decoders": decoders}
    )


if __name__ == "__main__":
    main()
