"""What is timed: run directories, ONNX files, TensorRT engines and ``.pt2`` files, each under one name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files.atomic import read_json
from slimsight.compress.models import build_classifier, restore_
from slimsight.compress.registry import nearest
from slimsight.export.onnx_files.metadata import stated_macs
from slimsight.export.runners.choose import RUNTIMES
from slimsight.export.runners.inputs import read_input

from ..run_dir import RunDir, read_run
from ..run_dir.allowed_code import foreign_code, was_built_here
from ..run_dir.exports import check_exports

SUFFIXES = (".onnx", ".engine", ".pt2")

_NOT_BUILT_HERE = "its engine was not built here, and opening one may run its code: export it, or give --allow-code"

_RUN_ENGINES = {
    "original": ("*.engine",),
    "slim": ("slim/*.engine", "export/model.*.engine"),
    "dynamic": ("export/routed.*.engine",),
}


@dataclass(frozen=True)
class BenchModel:
    """A model under one name in all its forms: files by suffix, and the run that its module can be built from.

    ``role`` is what it is to its run (``original``, ``slim``, ``dynamic``); empty for a file given by itself.
    ``withheld``: runtimes that would start code of the run's, and why they do not.
    ``macs`` (of one image, a mean where images differ) and ``test_accuracy`` (0..1): from the run's report, or as an
    ONNX file states them; None where nothing says so.
    """

    name: str
    given: str
    files: dict[str, Path] = field(default_factory=dict)
    engines: dict[str, Path] = field(default_factory=dict)
    run: Path | None = None
    role: str = ""
    withheld: dict[str, str] = field(default_factory=dict)
    macs: float | None = None
    test_accuracy: float | None = None

    def file(self, runtime: str) -> Path | None:
        """What ``runtime`` would open; a run's folder stands for a module; None where there is nothing."""
        takes = RUNTIMES[runtime].takes
        if runtime in self.withheld:
            return None
        if takes == ".engine":
            return self.engines.get(runtime)
        if takes == "module":
            return self.run if self.role in ("original", "slim") else None
        return self.files.get(takes)

    def open(self, runtime: str) -> Path | nn.Module:
        """What ``slimsight.export.runners.choose.open_runner`` takes.

        Raises:
            SlimError: the module cannot be built.
        """
        found = self.file(runtime)
        assert found is not None
        return found if RUNTIMES[runtime].takes != "module" else _module(read_run(found), self.role)

    def missing(self, runtime: str) -> str:
        """Why ``file`` is None, in words."""
        takes = RUNTIMES[runtime].takes
        if runtime in self.withheld:
            return self.withheld[runtime]
        if takes == "module":
            return "a module needs a run directory: an exported file holds no module"
        what = f"{takes} file" if takes != ".engine" else f"engine of {runtime}"
        return f"there is no {what} of it" + (": export one" if self.run else "")


def find_models(given: Sequence[str | Path], *, allow_code: bool = False) -> list[BenchModel]:
    """The models that ``given`` names, in order; of a run directory its original, slim and dynamic model.

    Args:
        allow_code: of runs, also what would start code that was not run or built here (see ``allowed_code``).

    Raises:
        ConfigError: nothing was given, or something that is neither a run nor such a file.
        RunError: a folder that is no run, or one without artefacts.
        Damaged: a file of a run is not what was written.
        ExportError: a file is missing or not whole.
    """
    if not given:
        raise ConfigError(f"no model was given: give run directories or files ({', '.join(SUFFIXES)})")
    places = [Path(text) for text in given]
    runs = sum(place.is_dir() for place in places)
    found: list[BenchModel] = []
    for text, place in zip(map(str, given), places, strict=True):
        if place.is_dir():
            found += _of_run(text, place, f"{place.absolute().name}: " if runs > 1 else "", allow_code)
        else:
            found.append(_of_file(text, place))
    return _named_apart(found)


def find_baseline(subjects: Sequence[BenchModel], wanted: str | None) -> BenchModel:
    """The first subject, or the one that ``wanted`` names (its name in the table, or what was given for it).

    Raises:
        ConfigError: no subject has that name.
    """
    if wanted is None:
        return subjects[0]
    for subject in subjects:
        if wanted in (subject.name, subject.given):
            return subject
    names = [subject.name for subject in subjects]
    raise ConfigError(
        f"no model is called '{wanted}'{nearest(wanted, names)} (choose the baseline from: {', '.join(names)})"
    )


def image_size(subjects: Sequence[BenchModel]) -> tuple[tuple[int, int] | None, dict[str, int]]:
    """(H, W) of the images that every subject takes, and the images per call of those that fix them.

    None where every subject takes any size. Reads the files: what is broken is found here.

    Raises:
        ConfigError: subjects take images of different sizes.
        ExportError: a file is missing, not whole, or takes no images.
    """
    sizes: dict[str, tuple[int, int]] = {}
    batches: dict[str, int] = {}
    for subject in subjects:
        for path in subject.files.values():
            takes = read_input(path)
            if takes.size is not None:
                sizes[subject.name] = takes.size
            if takes.batch is not None:
                batches[subject.name] = takes.batch
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} takes {height} x {width}" for name, (height, width) in sizes.items())
        raise ConfigError(f"the models take images of different sizes ({listed} pixels): compare models of one size")
    return next(iter(sizes.values()), None), batches


def _of_file(text: str, place: Path) -> BenchModel:
    if place.suffix not in SUFFIXES:
        what = "does not exist" if not place.exists() else "is none of them"
        raise ConfigError(f"{text} {what}: give run directories or files ({', '.join(SUFFIXES)})")
    if not place.is_file():
        raise ConfigError(f"there is no {text}: give run directories or files ({', '.join(SUFFIXES)})")
    if place.suffix == ".engine":
        return BenchModel(place.name, text, engines=_engines([place]))
    macs = stated_macs(place) if place.suffix == ".onnx" else None
    return BenchModel(place.name, text, files={place.suffix: place}, macs=macs)


def _of_run(text: str, place: Path, prefix: str, allow_code: bool) -> list[BenchModel]:
    run = read_run(place)
    forms = {
        "original": {".onnx": run.original_onnx},
        "slim": {".onnx": run.slim_onnx, ".pt2": run.slim_pt2},
        "dynamic": {".onnx": run.routed_onnx},
    }
    found, figures = [], _figures(run)
    code = {} if allow_code else _foreign_modules(run)
    check_exports(run.export_json.parent)
    for role, files in forms.items():
        built = [path for pattern in _RUN_ENGINES[role] for path in run.root.glob(pattern)]
        foreign = [] if allow_code else [path for path in built if not was_built_here(path)]
        engines = _engines([path for path in built if path not in foreign])
        withheld = code | {name: _NOT_BUILT_HERE for name in _engines(foreign) if name not in engines}
        there = {suffix: path for suffix, path in files.items() if path.is_file()}
        if there or engines:
            macs, accuracy = figures.get(role, (None, None))
            found.append(BenchModel(f"{prefix}{role}", text, there, engines, run.root, role, withheld, macs, accuracy))
    if not found:
        raise ConfigError(f"the run {text} has no exported model yet: finish it with 'slimsight run'")
    return found


def _foreign_modules(run: RunDir) -> dict[str, str]:
    """Why the runtimes that need a module do not run this run's; nothing where they may."""
    from ..settings.recipe import load_recipe

    reason = foreign_code(load_recipe(run.recipe).model) if run.recipe.is_file() else None
    return {} if reason is None else {name: reason for name, runtime in RUNTIMES.items() if runtime.takes == "module"}


def _figures(run: RunDir) -> dict[str, tuple[float, float | None]]:
    """MACs and test accuracy by role, as the run's report says; nothing where there is no report yet."""
    from ..report import read_report

    if not run.report_json.is_file():
        return {}
    report = read_report(run.report_json)
    figures: dict[str, tuple[float, float | None]] = {
        "original": (report.original.macs, report.original.test_accuracy),
        "slim": (report.slim.macs, report.slim.test_accuracy),
    }
    if report.dynamic is not None:
        figures["dynamic"] = (report.dynamic.macs_mean, report.dynamic.test_accuracy)
    return figures


def _engines(paths: Sequence[Path]) -> dict[str, Path]:
    """Engines by the runtime that they were built for; of several for one runtime FP32 before FP16, then by name."""
    found: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: ("fp16" in path.name, path.name)):
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty: build the engine again")
        found.setdefault(_flavour(path), path)
    return found


def _flavour(path: Path) -> str:
    """By the key that is written beside an engine, else by its name: ``rtx`` in it is TensorRT for RTX."""
    key = path.with_name(f"{path.name}.json")
    if key.is_file():
        try:
            beside: Any = read_json(key)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{key} is no JSON ({error}): build the engine again") from error
        built = beside.get("key") if isinstance(beside, dict) else None
        if isinstance(built, dict) and built.get("flavour") in ("tensorrt", "tensorrt-rtx"):
            return str(built["flavour"])
    return "tensorrt-rtx" if "rtx" in path.name else "tensorrt"


def _named_apart(subjects: list[BenchModel]) -> list[BenchModel]:
    """Names that say which is which: of files of one name their folders too, of one file given twice a number."""

    def is_shared(subject: BenchModel) -> bool:
        return any(other.name == subject.name and other.given != subject.given for other in subjects)

    names = [
        "/".join(Path(s.given).absolute().parts[-2:]) + (f": {s.role}" if s.role else "") if is_shared(s) else s.name
        for s in subjects
    ]
    counted: dict[str, int] = {}
    apart = []
    for subject, name in zip(subjects, names, strict=True):
        counted[name] = counted.get(name, 0) + 1
        unique = name if counted[name] == 1 else f"{name} ({counted[name]})"
        apart.append(replace(subject, name=unique))
    return apart


def _module(run: RunDir, role: str) -> nn.Module:
    """A run's original or slim model as a module, rebuilt from its recipe, its plan and its weights."""
    from ..report import read_report
    from ..settings.recipe import load_recipe
    from ..slim_folder import load

    if not run.report_json.is_file():
        raise RunError(f"the run {run.root} is not finished: its modules are built from its report")
    config = load_recipe(run.recipe).model.model_copy(update={"weights": None})
    data = read_report(run.report_json).data
    if data is None:
        raise RunError(f"the report of the run {run.root} does not say how many classes there are: run it again")
    model = build_classifier(config, data.classes)
    if role == "slim":
        return load(run.slim, model)
    restore_(model, run.stage_dir("classifier") / "model.safetensors")
    return model.eval()
