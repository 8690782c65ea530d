"""Save and load a slim model: weights, plan, a self-contained .pt2 program, checksums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.explain import ExplainedClassifier
from slimsight.compress.files.atomic import make_folder, read_tensors, write_tensors
from slimsight.compress.files.sealed import find_damage, read_sealed, sha256_of_file, write_sealed
from slimsight.compress.inputs import Example, Packing, first_rows
from slimsight.compress.models import check_outputs
from slimsight.compress.models.adopt import adopt
from slimsight.compress.modules import load_tensors_, tensors_of
from slimsight.compress.surgery import PrunePlan, slim_
from slimsight.export.pt2.export import export_pt2, load_program, load_pt2

from .run_dir import is_run, read_run

WEIGHTS, PLAN, PROGRAM, EXPLAINER = "model.safetensors", "plan.json", "model.pt2", "explainer.safetensors"
SUMS = "checksums.json"
"""File with the sha256 of each file, written last. A run's ``slim`` folder has none: its stage records hold them."""
_UNFINISHED = "0" * 64  # until then

_NET, _NORMALISATION = "net.", frozenset({"normalize.mean", "normalize.std"})
"""Names of the tensors of a ``Classifier``: prefix of its network's, and those of its normalisation."""


@dataclass(frozen=True)
class Slimmed:
    """A slim model (of the original's class), its plan, and its explainer if it has one.

    ``max_rel``: largest difference of its outputs from the original's with closed gates, relative; ``outputs``: of each
    output by its name (``out.boxes[0]``).
    """

    model: nn.Module
    plan: PrunePlan
    example: Example
    macs: int
    max_rel: float
    explained: ExplainedClassifier | None = None
    outputs: Mapping[str, float] = field(default_factory=dict)


def save(slimmed: Slimmed, folder: str | Path) -> None:
    """Write weights (safetensors), plan (JSON), a self-contained ``model.pt2``, and the explainer's weights.

    Raises:
        ConfigError: a file of one of these names is there, in a folder that ``save`` did not write.
        ExportError: the model cannot be traced with a free batch size.
        RunError: the disk is full or the place is not writable.
    """
    place = Path(folder)
    written = [PROGRAM, WEIGHTS, PLAN, *([EXPLAINER] if slimmed.explained is not None else [])]
    _refuse_foreign(place, written)
    make_folder(place)
    write_sealed(place / SUMS, {"sha256": dict.fromkeys(written, _UNFINISHED)})
    export_pt2(slimmed.model, slimmed.example, place / PROGRAM)
    write_tensors(place / WEIGHTS, tensors_of(slimmed.model))
    slimmed.plan.save(place / PLAN)
    if slimmed.explained is not None:
        selector = slimmed.explained.selector
        write_tensors(place / EXPLAINER, selector.state_dict(), selector.head.metadata)
    write_sealed(place / SUMS, {"sha256": {name: sha256_of_file(place / name) for name in written}})


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a slim model in eval mode from a folder that ``save`` wrote, or from a run or its ``slim`` folder.

    Args:
        folder: the folder; a file in it or the folder of a run will do.
        model: the original architecture, for a slim model that can be trained on; our copy of it (``adopt``: plain
            float32 layers) is slimmed and gets the weights. It takes images as ``model`` does: the normalisation that
            a run puts before its network is not part of it. Without it: the self-contained program, for inference with
            torch alone; of a run it takes RGB images in [0, 1], not normalised.

    Raises:
        Damaged: a file is not what was written.
        ExportError: there is no program in the folder, or this torch cannot read it.
        PruningError: the plan does not fit ``model``.
        ModelError: there is no such folder, or the weights do not fit ``model``.
    """
    place = _folder_of(Path(folder))
    _check(place)
    if model is None:
        return load_pt2(place / PROGRAM)
    args, keywords = load_program(place / PROGRAM).example_inputs
    given: Example = first_rows(dict(keywords) or (args[0] if len(args) == 1 else tuple(args)), 1)
    packing = None if isinstance(given, Tensor) else Packing.of(given)
    example = given if isinstance(given, Tensor) else Packing.of(given).pack(given)
    twin = adopt(model).model
    if packing is not None:
        packing.attach_(twin)
    plan, tensors = _for_model(twin, PrunePlan.load(place / PLAN), read_tensors(place / WEIGHTS))
    check_outputs(twin, example)
    slim_(twin, plan, example)
    try:
        load_tensors_(twin, tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{place / WEIGHTS} does not fit {type(model).__name__} after the plan ({reason}): give the architecture "
            "that was slimmed"
        ) from error
    return (twin if packing is None else packing.detach_(twin)).eval()


def _folder_of(place: Path) -> Path:
    """The folder of a slim model, from it, a file in it, or the run around it."""
    if place.is_file():
        place = place.parent
    if not place.is_dir():
        raise ModelError(f"there is no {place}: give the folder that slimsight.save wrote, or the slim folder of a run")
    return place / "slim" if is_run(place) else place


def _for_model(model: nn.Module, plan: PrunePlan, tensors: dict[str, Tensor]) -> tuple[PrunePlan, dict[str, Tensor]]:
    """Plan and weights under the names that ``model`` has: a run slims a ``Classifier``, which has it as ``net``."""
    if not _of_classifier(tensors) or _of_classifier(tensors_of(model)):
        return plan, tensors
    inner = {name.removeprefix(_NET): tensor for name, tensor in tensors.items() if name.startswith(_NET)}
    kept = {name.removeprefix(_NET): channels for name, channels in plan.kept.items()}
    return PrunePlan(kept, {name.removeprefix(_NET): width for name, width in plan.widths.items()}), inner


def _of_classifier(names: Iterable[str]) -> bool:
    """Whether the names of tensors are those of a ``Classifier``."""
    others = {*names} - _NORMALISATION
    return len(others) == len({*names}) - len(_NORMALISATION) and all(name.startswith(_NET) for name in others)


def _refuse_foreign(place: Path, names: Sequence[str]) -> None:
    """Raise ConfigError for files of these names in a folder without ``SUMS``: they are somebody's own."""
    there = [name for name in names if (place / name).exists()]
    if there and not (place / SUMS).is_file():
        raise ConfigError(
            f"{place / there[0]} exists, and slimsight.save did not write it: it is kept; save into a folder of its own"
        )


def _check(place: Path) -> None:
    """Verify checksums: the folder's own, or those of the run around it."""
    try:
        known = read_sealed(place / SUMS)
    except FileNotFoundError:
        if place.name == "slim" and is_run(place.parent):
            read_run(place.parent)
        return
    for name, expected in known["sha256"].items():
        if (damage := find_damage(place / name, sha256=expected)) is not None:
            raise damage.remedied("save the slim model again")
