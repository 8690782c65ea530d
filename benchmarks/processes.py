"""One process against two (gloo, on the CPU), stage by stage, with the bytes that they exchange.

    .venv/bin/python benchmarks/processes.py --out runs/processes

The digits recipe, shortened (``SETTINGS``), is run in one process. Then every stage that processes do together is done
again from the inputs that it had there: in one process, which must give the same bits, and in two. What is compared is
what the stage wrote: of all its tensors the largest difference of two numbers, as it is and as a share of the largest
number of that tensor. What two processes add up as two sums, one process adds up as one; with `accumulate: 2` it adds
up the same two, so each stage is done that way, too, and compared with two processes. Where batch normalisation trains,
rounding grows with every step, whoever adds up: a training of the classifier is followed step by step, in float32 and
in float64. Results go to results/processes.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn import functional as F

from slimsight.compress.data import Batch
from slimsight.compress.files.atomic import read_json, read_tensors, write_json
from slimsight.compress.parallel.processes import gather, rank
from slimsight.compress.progress import SILENT
from slimsight.compress.training import Learning, fit, loop, make_fabric, one_cycle
from slimsight.compress.training.step import Loss, SharedStep
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.pipeline import to_stages
from slimsight.deploy.run.session import Session
from slimsight.deploy.run.stages.learn import seed_stage
from slimsight.deploy.run_dir import RunDir
from slimsight.deploy.settings.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "processes.json"
RECIPE = ROOT / "configs" / "digits.yaml"
SETTINGS = (
    "threads=1", "data.image_size=16", "model.train.epochs=3", "explainer.predictor.epochs=2",
    "explainer.selector.epochs=4", "gates.steps=150", "finetune.epochs=2", "dynamic.enabled=true", "dynamic.epochs=1",
    "dynamic.finetune_epochs=1", "dynamic.batch_size=64", "dynamic.verify_images=20", "export.formats=[onnx]",
    "latency.rounds=20", "latency.warmup_seconds=0.05",
)  # fmt: skip
STEPS = (1, 2, 5, 10, 20, 40)
WAYS = (("1", 1, 1), ("2", 2, 1), ("1-in-parts", 1, 2))
"""Name, processes, parts that a process takes a batch in."""
KINDS = {"float32": "32-true", "float64": "64-true"}


class Recorded(SharedStep):
    """A step that notes what was sent in it."""

    found: list[dict[str, int]] = []  # noqa: RUF012 - one for all trainings of this process

    def __init__(self, model: nn.Module, *args: Any) -> None:
        super().__init__(model, *args)
        numbers = sum(value.numel() for value in model.parameters() if value.requires_grad)
        self.found.append({"learned_numbers": numbers, "steps": 0, "bytes_reduced_per_step": 0})

    def backward(self, parts: list[Batch], loss: Loss) -> Mapping[str, Tensor]:
        figures = super().backward(parts, loss)
        row = self.found[-1]
        row["steps"] += 1
        assert row["steps"] == 1 or row["bytes_reduced_per_step"] == self.traffic.bytes, "not in every step the same"
        row["bytes_reduced_per_step"] = self.traffic.bytes
        row["figures"] = len(figures)
        return figures


def rerun_stages(whole: Path, folder: Path, accumulate: int) -> dict[str, Any]:
    """Every stage that processes do together, from the inputs that it had in ``whole``."""
    recipe = load_recipe(RECIPE, (*SETTINGS, f"accumulate={accumulate}"))
    torch.set_num_threads(1)
    vars(loop)["SharedStep"] = Recorded  # every training of a stage goes through it
    found: dict[str, Any] = {}
    fabric = None
    for stage in to_stages(recipe):
        if not stage.on_all_ranks:
            continue
        place = folder / stage.name
        session = Session(recipe, RunDir(place, writable=False), SILENT, default_cache())
        if fabric is not None:
            session.__dict__["fabric"] = fabric
        fabric = session.fabric
        if rank() == 0:
            shutil.copytree(whole, place)
        fabric.barrier()
        Recorded.found = []
        seed_stage(recipe.seed, stage.name)
        outcome = stage.work(session, Learning(fabric))
        fabric.barrier()
        found[stage.name] = {"metrics": outcome.metrics, "trainings": gather(Recorded.found)[0]}
    return found


def train_with_snapshots(folder: Path, kind: str) -> None:
    """A training of the classifier, whose weights and statistics are kept after each of ``STEPS``."""
    recipe = load_recipe(RECIPE, SETTINGS)
    together = int(os.environ["WORLD_SIZE"]) > 1
    fabric = make_fabric(KINDS[kind], together=together)  # type: ignore[arg-type]  # 64-true is no choice of recipes
    session = Session(recipe, RunDir(folder, writable=False), SILENT, default_cache())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = session.new_classifier()[0].train()
    batches = session.shuffled(session.splits.train, 64, crop=True)
    kept: dict[str, Tensor] = {}

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = batch.images.double() if kind == "float64" else batch.images
        return {"loss": F.cross_entropy(wrapped(images), batch.labels)}

    def keep(step: int, _: Mapping[str, float]) -> None:
        if step + 1 in STEPS:
            kept.update({f"{step + 1} {name}": value.clone() for name, value in model.state_dict().items()})

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    fit(
        model,
        batches,
        loss,
        optimizer,
        Learning(fabric),
        what=kind,
        steps=max(STEPS),
        schedule=one_cycle,
        after_step=keep,
    )
    if rank() == 0:
        torch.save(kept, folder / f"{kind}.pt")


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of two numbers, and as a share of the largest number of their tensor."""
    assert ours.keys() == theirs.keys()
    largest = {"absolute": 0.0, "relative": 0.0}
    for name, expected in theirs.items():
        expected = expected.double()
        difference = float((ours[name].double() - expected).abs().max()) if expected.numel() else 0.0
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        largest["absolute"] = max(largest["absolute"], difference)
        largest["relative"] = max(largest["relative"], difference / scale if scale else difference)
    return largest


@contextmanager
def launch(processes: int, logs: Path) -> Iterator[Any]:
    """Starts this script in so many processes."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="processes", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
    )  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = "1"
    yield elastic_launch(config, sys.executable)


def compare_stages(out: Path) -> dict[str, Any]:
    """All of it."""
    whole = out / "whole"
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    subprocess.run([sys.executable, "-m", "slimsight", "run", str(RECIPE), "--out", str(whole), *words], check=True)
    for name, processes, accumulate in WAYS:
        place = out / f"in-{name}"
        place.mkdir()
        with launch(processes, out / "logs") as start:
            started = time.monotonic()
            start(str(Path(__file__)), "--out", str(place), "--whole", str(whole), "--accumulate", str(accumulate))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    rows: dict[str, Any] = {}
    for stage, record in read_json(out / "in-2" / "found.json").items():
        row: dict[str, Any] = {"trainings": record["trainings"]}
        for ours, theirs in (("1", "whole"), ("2", "whole"), ("2", "1-in-parts")):
            places = (out / f"in-{ours}" / stage, whole if theirs == "whole" else out / f"in-{theirs}" / stage)
            every = [
                largest_difference(*(read_tensors(place / name) for place in places))
                for name in stage_tensors(whole, stage)
            ]
            worst = {kind: max(found[kind] for found in every) for kind in ("absolute", "relative")} if every else None
            row[f"{ours} against {theirs.replace('whole', '1')}"] = worst
        metrics = [read_json(out / f"in-{processes}" / "found.json")[stage]["metrics"] for processes in (1, 2)]
        row["figures"] = {name: [one, metrics[1][name]] for name, one in metrics[0].items() if isinstance(one, float)}
        rows[stage] = row
    return {"stages": rows, **compare_snapshots(out)}


def compare_snapshots(out: Path) -> dict[str, Any]:
    """The classifier's training: two processes against one, and each in float32 against one in float64."""
    kept = {(kind, count): torch.load(out / f"in-{count}" / f"{kind}.pt") for kind in KINDS for count in (1, 2)}

    def by_step(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        of = {step: [name for name in theirs if name.startswith(f"{step} ")] for step in STEPS}
        return {
            str(step): largest_difference({name: ours[name] for name in names}, {name: theirs[name] for name in names})
            for step, names in of.items()
        }

    return {
        "classifier_after_steps": {kind: by_step(kept[kind, 2], kept[kind, 1]) for kind in KINDS},
        "float32_to_float64": {str(count): by_step(kept["float32", count], kept["float64", 1]) for count in (1, 2)},
    }


def stage_tensors(whole: Path, stage: str) -> list[str]:
    """The tensors that a stage left."""
    return [
        name for name in read_json(whole / "stages" / stage / "done.json")["files"] if name.endswith(".safetensors")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--whole", type=Path, help="internal: of a process that was started")
    parser.add_argument("--accumulate", type=int, default=1, help="internal: parts of a batch")
    options = parser.parse_args()
    if options.whole is not None:
        found = rerun_stages(options.whole, options.out, options.accumulate)
        for kind in KINDS if options.accumulate == 1 else ():
            train_with_snapshots(options.out, kind)
        if rank() == 0:
            write_json(options.out / "found.json", found)
        return
    options.out.mkdir(parents=True)
    found = compare_stages(options.out.absolute())
    write_json(
        RESULTS,
        {"device": device_name(), "versions": versions(), "recipe": RECIPE.name, "settings": list(SETTINGS), **found},
    )


if __name__ == "__main__":
    main()
