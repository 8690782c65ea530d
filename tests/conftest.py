"""What every test gets: few threads, a check that nothing leaks, and the real images where they are."""

from __future__ import annotations

import copy
import functools
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from slimsight.compress.dynamic import DynamicClassifier, find_routes
from slimsight.compress.surgery import trace_groups

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

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
_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)  # workers share the cores


_SLOW_FILES = (
    "tests/test_end_to_end.py",
    "tests/deploy/run/test_processes.py",
    "tests/deploy/run/test_imagenet_recipes.py",
    "tests/deploy/run/test_dynamic_run.py",
    "tests/deploy/run/test_resuming.py",
    "tests/test_user_projects.py",
    "tests/test_packaging.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the slowest tests start first: left for the end, one process would wait for another's."""
    places = {ROOT / name: place for place, name in enumerate(_SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True, scope="session")
def thawed() -> Iterator[None]:
    """What ``frozen`` keeps from being collected is collected when Python ends: some libraries complain otherwise."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def frozen(thawed: None) -> None:
    """What is there before a file's tests, libraries above all, is no garbage: whoever times collects it again each
    time, for half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_table_of_operators() -> Iterator[None]:
    """torch builds its table of ONNX operators at each export: half of the time of a small one, for the same table."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # where it lies is nobody's promise; exports then take their time
        yield
        return
    build = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(*arguments: int, **options: int) -> ONNXRegistry:
        table = copy.copy(build(*arguments, **options))
        table.functions = {name: list(found) for name, found in table.functions.items()}  # an export may add to it
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        yield


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
def to_dynamic() -> Callable[..., DynamicClassifier]:
    """``to_dynamic(model, side)``: the model with routes, whose masks and heads are drawn."""

    def build(model: nn.Module, side: int, *, masks: int = 3, seed: int = 0) -> DynamicClassifier:
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        model.eval()
        images = torch.rand(64, 3, side, side)
        dynamic = DynamicClassifier(model, find_routes(model, trace_groups(model, images[:1]), images[:1]), masks)
        dynamic.eval().init_heads_(images)
        for router in dynamic.router_list:
            count = router.masks.shape[1] // 2
            with torch.no_grad():
                router.masks.uniform_(0.5, 1.5)
                router.keep.copy_(torch.rand_like(router.masks).argsort(1).argsort(1) < count)
            router.project_()
        return dynamic

    return build


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


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slimsight as pip installs its wheel, and nothing else; ``PYTHONPATH`` makes it the one in use."""
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    site = tmp_path_factory.mktemp("site")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile")
    subprocess.run([sys.executable, *pip, "--target", site, wheel], check=True)
    return site
