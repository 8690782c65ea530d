import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimsight.deploy.host import Cores, free_disk, nearest_folder, usable_cores, usable_memory


def _files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000", "sys/fs/cgroup/a/b/x": ""}, 1),
        (
            {
                "proc/self/cgroup": "4:memory:/\n1:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_cores_are_what_affinity_and_cgroups_leave(tmp_path: Path, files: dict[str, str], usable: int) -> None:
    found = usable_cores(_files(tmp_path, files))
    assert (found.usable, found.all) == (usable, 8)
    assert bool(found.limited_by) == (usable < 8)


def test_cores_that_the_process_is_not_bound_to_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 5})
    assert usable_cores(tmp_path) == Cores(2, 8, "the process is bound to these (taskset)")


def test_memory_is_the_least_of_what_is_free_and_what_cgroups_allow(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) is None
    _files(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"})
    assert usable_memory(tmp_path) == 8000 * 1024
    limited = {"sys/fs/cgroup/memory.max": "3000000", "sys/fs/cgroup/memory.current": "1000000"}
    assert usable_memory(_files(tmp_path, {"proc/self/cgroup": "0::/\n", **limited})) == 2000000


def test_disk_is_asked_where_a_folder_would_be_made(tmp_path: Path) -> None:
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert free_disk(tmp_path / "a" / "b") > 0


FAULTS = """
import resource, sys
from slimsight.deploy.host import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else False)
bytes(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = bytearray(2**26)
    block[:: 2**12] = bytes(2**14)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[str, int]:
    """What was answered, and page faults of twenty blocks of 64 MiB, each freed before the next."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    made = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    answer, count = made.stdout.split()
    return answer, int(count)


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="the system's C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    usual, kept = faults("usual"), faults("keep")
    assert (usual[0], kept[0]) == ("False", "True")
    assert kept[1] < usual[1] / 4


def test_an_allocator_of_the_users_own_choice_stays() -> None:
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="1000000")[0] == "False"
