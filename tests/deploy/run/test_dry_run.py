from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import RunError
from slimsight.deploy.run.dry_run import DryRun, dry_run
from slimsight.deploy.settings.recipe import load_recipe


@pytest.fixture
def plan(tiny: Path, cache: Path) -> Callable[..., DryRun]:
    """``plan(out, "a.b=c", ...)``: a dry run of the recipe with overrides."""

    def look(out: Path, *overrides: str, **options: Any) -> DryRun:
        return dry_run(load_recipe(tiny, overrides), out, cache=cache, **options)

    return look


def test_a_finished_run_would_reuse_all_and_stays_as_it_is(
    plan: Callable[..., DryRun], finished: Any, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")}
    found = plan(finished.root)
    assert all(stage.reused for stage in found.stages)
    assert found.seconds == 0
    assert {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")} == before
    assert found.known.macs == finished.report.original.macs
    assert finished.report.slim.macs <= found.known.limits["macs"]


def test_what_would_run_has_its_reason_and_a_time_near_the_measured_one(
    plan: Callable[..., DryRun], finished: Any, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    found = plan(out, reuse=finished.root)
    assert all(stage.why == f"copied from {finished.root}" for stage in found.stages)
    found = plan(out)
    assert not out.exists()
    assert {stage.why for stage in found.stages} == {"not done yet"}
    took = sum(stage.seconds for stage in finished.report.stages)
    assert took / 8 < found.seconds < took * 8  # other processes run beside tests
    size = sum(path.stat().st_size for path in finished.root.rglob("*") if path.is_file())
    assert size / 4 < found.disk < size * 4
    changed = {stage.name: (stage.reused, stage.why) for stage in plan(finished.root, "gates.steps=150").stages}
    assert changed["selector"][0]
    assert changed["gates"] == (False, "what it reads has changed (settings, files or images)")
    assert changed["surgery"] == (False, "follows gates")
    assert changed["latency"] == (False, "follows export")


def test_longer_schedules_are_expected_to_take_longer(plan: Callable[..., DryRun], tmp_path: Path) -> None:
    found = plan(tmp_path / "new", "finetune.epochs=200")
    times = {stage.name: stage.seconds for stage in found.stages}
    assert times["finetune"] > 10 * times["classifier"]


def test_gates_that_need_more_steps_are_warned_of(plan: Callable[..., DryRun], notes: Any, tmp_path: Path) -> None:
    out = tmp_path / "new"
    few = plan(out, "gates.steps=60", "gates.lr=null", progress=notes)
    assert (few.gate_steps, few.known.gate_steps) == (60, 100)
    warned = [line for line in notes.lines if line.startswith("WARNING: ")]
    assert [line.startswith("WARNING: gates.steps is 60, and about 100 are needed") for line in warned] == [True]
    notes.lines.clear()
    enough = plan(out, "gates.steps=100", "gates.lr=null", progress=notes)
    assert enough.known.gate_steps == 100
    assert plan(out, "gates.steer=magnitude", "explainer.enabled=false", progress=notes).known.gate_steps is None
    assert not [line for line in notes.lines if line.startswith("WARNING: ")]


def test_a_folder_that_a_run_would_refuse_is_refused(plan: Callable[..., DryRun], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(RunError, match=r"is not the folder of a run: .* choose a new or empty folder with --out"):
        plan(tmp_path)
