"""Plans under a latency budget: chosen by measured layer times, then exported, timed and corrected."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from slimsight.compress.amounts import Amount
from slimsight.compress.errors import ConfigError, PruningError, RuntimeMissing
from slimsight.compress.gates import CostModel, Selection, select
from slimsight.compress.gates.latency import LatencyModel, grid_points, preferred_multiple, width_probes
from slimsight.compress.gates.widths import Align
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.surgery import PrunePlan
from slimsight.export.config import LEAST_IMAGES
from slimsight.export.costs.layer_graph import KernelPrecision
from slimsight.export.costs.times import TIMING_METHOD, cached_times, layers_share
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.quantise import quantise
from slimsight.export.runners.base import NodeTimes
from slimsight.export.runners.choose import find_runtime, open_runner, runtimes_for
from slimsight.export.to_onnx import export_onnx

from ..report.units import as_ms, plural
from ..settings.latency import DEFAULT_RUNTIME, LatencyConfig
from .latency import LatencyRow, measure_latency

CORRECTIONS = 4
"""Plans that are exported and timed at most."""

AIM = 0.985
"""Share of the limit that a plan is chosen for: times of the same model scatter by about a percent."""

CLOSE = 0.97
"""A plan within the limit that uses this share of it is good enough."""

TIMED_ROUNDS = 60

TIMED_SESSIONS = 3
"""Openings that these rounds are shared out to: a plan is judged by its median, not by an interval."""


@dataclass(frozen=True)
class TimedPlan:
    """A selection and what its model measured, interleaved with the original (median ms).

    ``slim_ms``: of its file in the precision that plans are timed in; ``original_ms``: of the original in FP32.
    """

    selection: Selection
    original_ms: float
    slim_ms: float

    def share_of(self, latency: Amount) -> float:
        """Share of a limit that the model takes, above 1 when it is too slow; a ratio is one to the original's time."""
        return self.slim_ms / latency.of(self.original_ms)

    def holds(self, latency: Amount) -> bool:
        """Whether the model is within the limit."""
        return self.share_of(latency) <= 1


def machine_key(threads: int, batch: int, runtime: str = DEFAULT_RUNTIME, precision: KernelPrecision = "fp32") -> str:
    """Cache key of layer times: processor, runtime, precision, threads, batch, method."""
    version = find_runtime(runtime)[0].version or "none"
    place = "CPUExecutionProvider" if runtime == DEFAULT_RUNTIME else runtime
    parts = (_processor(), version, place, precision, str(threads), str(batch), f"method {TIMING_METHOD}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's model and flags where the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text(encoding="utf-8").splitlines()
    return "\n".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags"))


def check_timing(config: LatencyConfig, *, plans: bool) -> None:
    """Check that models can be timed in the runtime of ``config``.

    Args:
        plans: whether plans are chosen by times, so that it has to time single layers, too.

    Raises:
        ConfigError: there is no such runtime, it opens no ONNX files, or it cannot time layers.
        RuntimeMissing: it does not run here.
    """
    runtime, _ = find_runtime(config.runtime)
    choices = ", ".join(one.name for one in runtimes_for(".onnx"))
    if ".onnx" not in runtime.formats:
        raise ConfigError(f"latency.runtime {config.runtime} opens no ONNX files: choose from {choices}")
    if (reason := runtime.available()) is not None:
        raise RuntimeMissing(f"latency.runtime {config.runtime} does not run here: {reason}")
    if plans:
        layer_timer(config.runtime)
    if config.runtime != DEFAULT_RUNTIME:  # a device or a driver may be missing, which only opening a file tells
        with TemporaryDirectory() as folder:
            export_onnx(_Smallest(), torch.zeros(1, 3, 8, 8), path := Path(folder) / "smallest.onnx")
            with open_runner(path, config.runtime, config.threads) as runner:
                runner.run(np.zeros((config.batch, 3, 8, 8), np.float32))


class _Smallest(nn.Module):
    """(N, 3, H, W) -> (N, 3)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def layer_timer(name: str) -> NodeTimes:
    """What times single layers in a runtime.

    Raises:
        ConfigError: the runtime cannot, on this device at least.
    """
    runtime, device = find_runtime(name)
    if runtime.node_times is None or device != runtime.device:
        able = ", ".join(one.name for one in runtimes_for(".onnx") if one.node_times is not None)
        raise ConfigError(
            f"latency.runtime {name} does not show the times of single layers, by which this budget chooses channels: "
            f"choose from {able}, or leave out budget.latency, latency_aware and align auto"
        )
    return runtime.node_times


class PlanTimer:
    """Context manager: times the models of plans against the original, in the runtime of ``config``.

    Args:
        original: the classifier.
        to_slim: the classifier that a plan leaves of it.
        images: (N, 3, H, W) in [0, 1].
        cache: folder of layer times, shared by all runs.
        precision: of the files that plans are timed by; int8: calibrated on ``images``, which do not change its time.
    """

    def __init__(
        self,
        original: nn.Module,
        to_slim: Callable[[PrunePlan], nn.Module],
        images: Tensor,
        config: LatencyConfig,
        cache: Path,
        *,
        precision: KernelPrecision = "fp32",
        opset: int = 18,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self.precision = precision
        self.original, self.to_slim, self.images, self.config = original, to_slim, images, config
        self.cache, self.opset, self.seed, self.progress = cache, opset, seed, progress
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory()
        export_onnx(self.original, self.images[:2], self._file("original"), opset=self.opset)
        if self.precision == "int8":
            self._quantise("original")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._folder is not None
        self._folder.cleanup()

    def _file(self, name: str) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{name}.onnx"

    def of_plan(self, plan: PrunePlan) -> LatencyRow:
        """Export the model that ``plan`` leaves and time it, interleaved with the original."""
        export_onnx(self.to_slim(plan), self.images[:2], self._file("slim"), opset=self.opset)
        return self._measure("slim")

    def precision_ratio(self) -> float:
        """Time of the original's file in the precision that plans are timed in, over that in FP32."""
        if self.precision == "fp32":
            return 1.0
        row = self._measure("original")
        assert row.int8_ms is not None
        self.progress.note(
            f"the original takes {as_ms(row.original_ms.median)} in FP32 and {as_ms(row.int8_ms.median)} in INT8"
        )
        return row.int8_ms.median / row.original_ms.median

    def _quantise(self, name: str) -> Path:
        """The INT8 file of a file; ranges hardly matter for its time, so that a few images do."""
        pixels = np.resize(np.asarray(self.images), (max(LEAST_IMAGES, len(self.images)), *self.images.shape[1:]))
        quantise(self._file(name), self._file(f"{name}.int8"), Calibration(pixels, "images that plans are timed on"))
        return self._file(f"{name}.int8")

    def _measure(self, name: str) -> LatencyRow:
        config = self.config
        int8 = None
        if self.precision == "int8":
            int8 = open_runner(self._quantise(name), config.runtime, config.threads)
        return measure_latency(
            open_runner(self._file("original"), config.runtime, config.threads),
            open_runner(self._file(name), config.runtime, config.threads),
            np.asarray(self.images),
            threads=config.threads,
            batch=config.batch,
            rounds=min(config.rounds, TIMED_ROUNDS),
            sessions=min(config.sessions, TIMED_SESSIONS),
            warmup=config.warmup_seconds,
            seed=self.seed,
            int8=int8,
            progress=self.progress,
        )

    @property
    def _key(self) -> str:
        config = self.config
        return machine_key(config.threads, config.batch, config.runtime, self.precision)

    def timed_cost(self, cost: CostModel) -> tuple[CostModel, dict[str, int]]:
        """``cost`` with latency among its resources, and the multiple of channels that each group's layers like.

        Times the layers that no run on this machine has timed yet; the original as a whole tells what share of the time
        is that of its layers.
        """
        layers = [layer for layer in cost.layers if layer.unit]
        spatial = [layer for layer in layers if layer.size != (1, 1) and (layer.groups == 1 or layer.depthwise)]
        wanted = {point for layer in layers for point in grid_points(layer)[2].values()}
        wanted |= {point for layer in spatial for point in width_probes(layer)}
        config, run = self.config, layer_timer(self.config.runtime)
        file = self.cache / "layer_times" / f"{self._key}.json"
        table = cached_times(
            sorted(wanted),
            file,
            threads=config.threads,
            batch=config.batch,
            run=run,
            precision=self.precision,
            progress=self.progress,
        )
        liked = {layer.name: preferred_multiple([table[point] for point in width_probes(layer)]) for layer in spatial}
        images = np.resize(np.asarray(self.images), (config.batch, *self.images.shape[1:]))
        whole = self._file("original" if self.precision == "fp32" else "original.int8")
        share = layers_share(whole, images, threads=config.threads, run=run)
        latency = LatencyModel.of_share(cost.layers, table, share, liked)
        self.progress.note(
            f"latency of the original by the times of its layers: {as_ms(cost.timed(latency).totals['latency'])}; "
            f"{share:.0%} of it is theirs, the rest that of other operators"
        )
        by_group = {}
        for name, touched in zip(cost.names, cost.touched, strict=True):
            by_group[name] = max((liked.get(cost.layers[row].name, 1) for row in touched.rows.tolist()), default=1)
        return cost.timed(latency), by_group


def select_timed(
    cost: CostModel,
    scores: Mapping[str, Tensor],
    limits: Mapping[str, float],
    latency: Amount,
    timer: PlanTimer,
    *,
    align: Align = 1,
    rank_weight: float = 1.0,
    most: float | None = None,
    precision_ratio: float = 1.0,
    progress: Progress = SILENT,
) -> TimedPlan:
    """A plan under ``limits`` whose model, exported and timed, holds ``latency`` too.

    The table proposes; what the model really took corrects the table's limit, and ``CORRECTIONS`` plans are timed at
    most. Of those that held the limit the one with most MACs is returned; where none did, the fastest, with a note: the
    verdict then fails, with its figure.

    Args:
        cost: with latency among its resources (``PlanTimer.timed_cost``).
        limits: of the other resources.
        latency: a ratio to the original, or ms.
        most: ms by the table, at most; None: as the limit allows.
        precision_ratio: ``PlanTimer.precision_ratio``: the table's total over the original's time, which the limit is a
            ratio to.

    Raises:
        PruningError: a limit is out of reach even by the table.
    """
    total = cost.totals["latency"]
    factor = precision_ratio  # measured over predicted
    tried: list[TimedPlan] = []
    for turn in range(CORRECTIONS):
        original = tried[-1].original_ms if tried else total / precision_ratio
        share = latency.value if latency.relative else latency.value / original
        target = min(AIM * share / factor, AIM) * total  # something has to shrink
        target = target if most is None else min(target, most)
        try:
            selection = select(cost, scores, budget={**limits, "latency": target}, align=align, rank_weight=rank_weight)
        except PruningError:
            if not tried:
                raise
            progress.note("the layers' times say that no smaller plan is faster")
            break
        if any(selection.plan == other.selection.plan for other in tried):
            break  # after a plan that held: one that did not puts the target below its own time
        row = timer.of_plan(selection.plan)
        slim_ms = row.slim_ms if row.int8_ms is None else row.int8_ms
        tried.append(TimedPlan(selection, row.original_ms.median, slim_ms.median))
        found = tried[-1]
        used = found.share_of(latency)
        progress.note(
            f"plan {turn + 1}: {as_ms(found.slim_ms)} measured, {used:.1%} of the latency limit; "
            f"{selection.used['macs'] / cost.total:.1%} of the MACs"
        )
        others = max((selection.used[name] / limit for name, limit in limits.items()), default=0.0)
        if used <= 1 and max(used, others) >= CLOSE:
            break
        factor = (found.slim_ms / found.original_ms) / (selection.used["latency"] / total)
    if held := [found for found in tried if found.holds(latency)]:
        return max(held, key=lambda found: (found.selection.used["macs"], -found.share_of(latency)))
    fastest = min(tried, key=lambda found: found.share_of(latency))
    progress.note(
        f"none of {plural(len(tried), 'timed plan')} holds the latency limit: the fastest takes "
        f"{as_ms(fastest.slim_ms)}, {as_ms(latency.of(fastest.original_ms))} allowed; raise budget.latency"
    )
    return fastest
