"""What every test gets: few threads, a check that nothing leaks, and the real images where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Set by libraries on first use, on purpose and for the whole process.
_SET_BY_LIBRARIES = {
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_MODULE_LOADING",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "PYTEST_CURRENT_TEST",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
}
_THREADS = min(2, os.cpu_count() or 1)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves files in the current folder, another folder or another environment."""
    torch.set_num_threads(_THREADS)  # again for each test: some set their own
    folder, files, environment = Path.cwd(), set(os.listdir()), dict(os.environ)  # noqa: PTH208
    yield
    there = Path.cwd()
    os.chdir(folder)
    changed = {
        name
        for name in environment.keys() | os.environ.keys()
        if environment.get(name) != os.environ.get(name) and name not in _SET_BY_LIBRARIES
    }
    for name in changed:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]
    left = {name for name in os.listdir() if name not in files and not name.startswith(".")}  # noqa: PTH208
    assert there == folder, f"the test stayed in {there}"
    assert not left, f"the test left files in {folder}: {sorted(left)}"
    assert not changed, f"the test changed the environment: {sorted(changed)}"


@pytest.fixture(scope="session")
def images_dir() -> Path:
    """The folder of the real images (CIFAR-10 as JPEG), which are not part of the project."""
    return _shared("data")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of the trained weights, which are not part of the project."""
    return _shared("weights")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: the real {name} are not part of the project")
    return folder
