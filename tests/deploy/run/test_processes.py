"""Runs in several processes: as two machines, whose address is the loopback's, and by ``--devices``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from slimsight.compress.errors import ConfigError, Interrupted
from slimsight.compress.files.atomic import read_tensors
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.run.processes import (
    _exit_code,
    as_arguments,
    check_batch_sizes,
    check_devices,
    launch,
)
from slimsight.deploy.settings.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = ("finetune.epochs=1", "finetune.batch_size=65", "export.formats=[onnx]")
"""Of a finished run: what surgery left stays. 65 images are 32 and 33 for two processes."""


@pytest.fixture
def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "SLIMSIGHT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def arguments(recipe: Path, out: Path) -> list[str]:
    return as_arguments(recipe, out, SETTINGS, None)


def test_two_machines_go_on_with_a_run_of_one_process(
    finished: Any, tiny: Path, cache: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    shared, alone = finished.copy(tmp_path / "shared"), finished.copy(tmp_path / "alone")
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--local-addr", "localhost",
    ]  # fmt: skip
    command = [*torchrun, "-m", "slimsight", *arguments(tiny, shared)]
    machines = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    recipe = load_recipe(tiny, SETTINGS)
    expected = run_recipe(recipe, alone, name="tiny.yaml", cache=cache)
    said = [machine.communicate(timeout=240) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert sorted(text.count("report:") for text, _ in said) == [0, 1]

    found = run_recipe(recipe, shared, name="tiny.yaml", cache=cache)
    assert all(stage.reused for stage in found.stages), "stages do not know how many processes there were"
    assert found.slim.macs == expected.slim.macs
    assert found.slim.test_accuracy == pytest.approx(expected.slim.test_accuracy, abs=0.01)
    ours, theirs = (read_tensors(root / "slim" / "model.safetensors") for root in (shared, alone))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_error_of_processes_is_told_once(tiny: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "slimsight", *as_arguments(tiny, tmp_path / "out", ["budget.macs=1000"], None)]
    ended = subprocess.run([*command, "--devices", "2"], env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.rstrip().splitlines()[-1].startswith("error:")


@pytest.mark.parametrize(
    ("wanted", "gpus", "started", "told"),
    [
        (0, 0, None, "--devices 0: 1 or more is needed"),
        (-3, 2, None, "--devices -3: 1 or more is needed"),
        (3, 2, None, "--devices 3: this machine has 2 GPUs; give at most 2"),
        (2, 1, None, "this machine has 1 GPU; give at most 1"),
        (4, 0, "2", "--devices 4 inside torchrun, which says how many processes there are (2)"),
    ],
)
def test_so_many_processes_cannot_be(
    wanted: int, gpus: int, started: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if started is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
        monkeypatch.setenv("WORLD_SIZE", started)
    with pytest.raises(ConfigError) as caught:
        check_devices(wanted)
    assert told in str(caught.value)


@pytest.mark.parametrize(("wanted", "gpus"), [(None, 0), (1, 0), (2, 2), (8, 0)])
def test_so_many_processes_can_be(wanted: int | None, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    check_devices(wanted)


def test_a_batch_has_an_image_for_every_process_and_part() -> None:
    recipe = Recipe.model_validate({"gates": {"batch_size": 6}, "accumulate": 2})
    check_batch_sizes(recipe, 3)
    with pytest.raises(ConfigError, match=r"gates.batch_size is 6: .* by 4 processes in 2 parts each .* to 8 or more"):
        check_batch_sizes(recipe, 4)
    unlearned = recipe.model_copy(update={"gates": recipe.gates.model_copy(update={"steer": "magnitude"})})
    check_batch_sizes(unlearned, 4)


@pytest.mark.parametrize(
    ("codes", "code"), [({0: 2, 1: 130}, 2), ({1: 2, 0: -signal.SIGTERM}, 2), ({0: 1}, 1), ({0: 130, 1: 2}, 2)]
)
def test_the_exit_code_is_that_of_the_process_that_failed_by_itself(codes: dict[int, int], code: int) -> None:
    assert _exit_code(codes, 2) == code


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ({0: 130, 1: -signal.SIGKILL}, "process 2 of 2 was ended by SIGKILL (often: out of memory); the same command"),
        ({0: -signal.SIGSEGV}, "process 1 of 2 was ended by SIGSEGV; the same command"),
        ({0: 130, 1: -signal.SIGTERM}, "interrupted; the same command"),
    ],
)
def test_what_ended_a_process_from_outside_is_told(codes: dict[int, int], told: str) -> None:
    with pytest.raises(Interrupted) as caught:
        _exit_code(codes, 2)
    assert str(caught.value).startswith(told)
    assert caught.value.exit_code == 130


def test_a_run_as_a_command_line() -> None:
    found = as_arguments(Path("a.yaml"), Path("out"), ["x.y=1", "z=2"], Path("old"))
    assert found == ["run", "a.yaml", "--out", "out", "--reuse", "old", "--set", "x.y=1", "--set", "z=2"]
    assert as_arguments(Path("a.yaml"), None, [], None) == ["run", "a.yaml"]


def test_processes_import_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``slimsight`` does not either: a file of the user's named typer.py is none of its business."""
    (tmp_path / "typer.py").write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM")  # torch sets it and leaves it behind
    assert launch(["--version"], 1) == 0
