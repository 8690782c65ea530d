"""A step that two processes share (gloo, on the CPU), against the same in one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from slimsight.compress.training import make_fabric

SCRIPT = Path(__file__).with_name("shared_work.py")
ROUNDING = 1e-5
"""Sums over processes have another order; float32."""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shared_work", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = load().work(make_fabric(accelerator="cpu"))
    torch.set_num_threads(before)
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    place = tmp_path_factory.mktemp("both")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(place)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM")  # set by the launcher, too: undone with this
        elastic_launch(config, sys.executable)(str(SCRIPT), str(place / "found.pt"))
    return [torch.load(place / f"found.{rank}.pt", weights_only=False) for rank in (0, 1)]


def close(ours: Any, theirs: Any, tolerance: float = ROUNDING) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_uneven_shares_give_the_gradients_and_statistics_of_whole_batches(
    alone: dict[str, Any], both: list[dict[str, Any]]
) -> None:
    for found in both:
        ours, theirs = found["learning"], alone["learning"]
        close(ours["weights"], theirs["weights"])
        close(ours["ce"], theirs["ce"])
        assert torch.equal(ours["random"], theirs["random"])
        close(ours["recalibrated"], theirs["recalibrated"])
        close(ours["better"], theirs["better"])
        assert ours["kept"].kept == theirs["kept"].kept
        assert ours["synced"][0] == theirs["synced"][0] == 1
        close(ours["synced"][1], theirs["synced"][1])
        close(ours["logits"], theirs["logits"])
        close(ours["score"], theirs["score"])
    first, second = (found["learning"] for found in both)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert torch.equal(first["logits"], second["logits"])
    assert first["kept"] == second["kept"]
    assert all(torch.equal(first["better"][name], second["better"][name]) for name in first["better"])


def test_parts_accumulate_to_the_whole_batch(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    whole = alone["accumulated"]["1"]
    for found in (alone, *both):
        parts = found["accumulated"]["3"]
        close(parts["weights"], whole["weights"])
        close(parts["ce"], whole["ce"])
        assert torch.equal(parts["random"], whole["random"])


def test_of_gates_their_gradients_alone_are_sent_and_all_have_the_same(
    alone: dict[str, Any], both: list[dict[str, Any]]
) -> None:
    assert both[0]["checksum"] == both[1]["checksum"]
    for found in both:
        assert found["gates"]["bytes"] == 4 * found["gates"]["gates"]
        close(found["gates"]["scores"], alone["gates"]["scores"], 1e-4)
    assert alone["gates"]["bytes"] == 0


def test_routes_are_learned_from_the_whole_batch(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    for found in both:
        close(found["dynamic"]["weights"], alone["dynamic"]["weights"])
        assert found["dynamic"]["macs"] == alone["dynamic"]["macs"]


def test_the_leader_works_alone_and_is_heard(both: list[dict[str, Any]]) -> None:
    first, second = (found["talking"] for found in both)
    assert first == second
    assert first["value"][0] == first["inside"] == 1
    assert first["moments"] == [[3.0, 4.0], [pytest.approx(5**0.5)] * 2]
