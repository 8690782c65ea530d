"""What this host grants a process: cores, memory, disk space, and the folder that caches decoded images."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from slimsight.compress.errors import ConfigError

CACHE_VARIABLE = "SLIMSIGHT_CACHE"
CHOOSE_CACHE = f"set {CACHE_VARIABLE} to a folder with room that you may write"


def default_cache() -> Path:
    """Folder of decoded images, shared by all runs: ``$SLIMSIGHT_CACHE``, else the user's cache folder.

    Raises:
        ConfigError: neither is known: there is no home folder.
    """
    if place := os.environ.get(CACHE_VARIABLE):
        return Path(place)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "slimsight"
    try:
        return Path.home() / ".cache" / "slimsight"
    except RuntimeError as error:  # no HOME, and a user whom the system does not know, as in some containers
        raise ConfigError(f"there is no home folder to keep decoded images in: {CHOOSE_CACHE}") from error


def writable_cache() -> Path:
    """``default_cache``, made if it is not there.

    Raises:
        ConfigError: it cannot be made or written into.
    """
    cache = default_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(cache, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigError(f"the cache of decoded images, {cache}, cannot be written ({reason}): {CHOOSE_CACHE}")
    return cache


def proof_folder(cache: Path | None = None) -> Path:
    """Folder of kept proofs of channel groups in ``cache`` (``default_cache`` if None)."""
    return (cache or default_cache()) / "proofs"


def check_batches_fit(batches: Mapping[str, int], shape: Sequence[int]) -> None:
    """Refuse batches of images whose pixels alone take more memory than this process may still allocate.

    Args:
        batches: images per call or step, by the setting that says so.
        shape: of one image, (C, H, W).

    Raises:
        ConfigError: names the setting, and the most that fit.
    """
    free, each = usable_memory(), 4 * prod(shape)
    for name, size in batches.items():
        if free is not None and size * each > free:
            image = " x ".join(map(str, shape))
            most = free // each
            fit = f"at most {most:,} fit: give fewer" if most else "not one fits: give smaller images"
            raise ConfigError(
                f"{name} is {size:,}: so many images of {image} take {size * each / 1e9:,.1f} GB in 32-bit floating "
                f"point, and {free / 1e9:,.1f} GB of memory are free; {fit}"
            )


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""

_KEPT_BLOCK, _KEPT_IN_ALL = 2**30, 2**31 - 1
_OWN_ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that this process frees, for its next blocks; whether that was set.

    By default large blocks go back to the system, and their pages are cleared anew when the next step allocates them:
    a fifth of the processor time of training EfficientNet-Lite0 at 224 pixels. Nothing is changed where the user chose
    an allocator or its parameters (in the environment), nor on systems without glibc.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN_ALLOCATOR):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in ((_M_MMAP_THRESHOLD, _KEPT_BLOCK), (_M_TRIM_THRESHOLD, _KEPT_IN_ALL))
    )


_UNLIMITED = 2**60
"""cgroup v1 writes nearly 2**63 where there is no limit."""


@dataclass(frozen=True)
class Cores:
    """``usable`` of ``all``: fewer where the affinity or a cgroup's quota (a container's --cpus) says so."""

    usable: int
    all: int
    limited_by: str = ""


def usable_cores(root: Path = Path("/")) -> Cores:
    """Cores that this process may use at the same time. ``root``: of the file system."""
    total = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota = _cpu_quota(root)
    if quota is not None and quota < affinity:
        return Cores(max(1, int(quota)), total, f"a cgroup (a container's --cpus) gives {quota:g} of them")
    return Cores(affinity, total, "the process is bound to these (taskset)" if affinity < total else "")


def usable_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still allocate; None where the system does not report it."""
    free = _meminfo(root, "MemAvailable")
    left = [limit - used for limit, used in _memory_limits(root)]
    known = [value for value in [free, *left] if value is not None]
    return max(0, min(known)) if known else None


def free_disk(place: Path) -> int:
    """Bytes free on the disk of ``place``, which need not exist yet."""
    return shutil.disk_usage(nearest_folder(place)).free


def nearest_folder(place: Path) -> Path:
    """``place``, or the nearest folder above it that exists."""
    place = place.absolute()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def _cpu_quota(root: Path) -> float | None:
    """Cores that the tightest cgroup above this process grants; None: no limit."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        words = _read_words(folder / "cpu.max")  # v2: "200000 100000" or "max 100000"
        if not words:
            words = _read_words(folder / "cpu.cfs_quota_us") + _read_words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of every cgroup above this process that has a limit."""
    for folder in _cgroups(root, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            numbers = [*_read_words(folder / limit), *_read_words(folder / used)]
            if len(numbers) == 2 and all(map(str.isdecimal, numbers)) and int(numbers[0]) < _UNLIMITED:
                yield int(numbers[0]), int(numbers[1])


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of those above it, v2 and v1."""
    mounted = root / "sys/fs/cgroup"
    for line in _read_lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mounted / controller if controllers else mounted
        place = base / path.lstrip("/")
        yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(base) and folder.is_dir())


def _meminfo(root: Path, key: str) -> int | None:
    for line in _read_lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def _read_words(path: Path) -> list[str]:
    return [word for line in _read_lines(path) for word in line.split()]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system, or a container that hides it
        return []
