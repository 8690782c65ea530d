"""The models of a bench: those of runs, ONNX files, TensorRT engines, ``.pt2`` and ``.pte`` files, by unique names."""

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
from slimsight.export.engines.key import sidecar
from slimsight.export.onnx_files.metadata import stated_macs
from slimsight.export.runners.choose import all_runtimes, find_runtime
from slimsight.export.runners.inputs import read_input

from ..run_dir import RunDir, read_run
from ..run_dir.allowed_code import untrusted_code_reason, was_built_here
from ..run_dir.exports import check_exports

SUFFIXES = (".onnx", ".engine", ".pt2", ".pte")

_UNTRUSTED_ENGINE = "its engine was not built here, and opening one may run its code: export it, or give --allow-code"

SLIM_INT8 = "slim int8"

_ENGINE_PATTERNS = {
    "original": ("*.engine",),
    "slim": ("slim/*.engine", "export/model.*.engine"),
    SLIM_INT8: ("export/model.*.int8.engine",),
    "dynamic": ("export/routed.*.engine",),
}


@dataclass(frozen=True)
class BenchModel:
    """A model with its files by suffix, its engines by runtime, and the run that its module can be built from.

    ``role``: ``original``, ``slim``, ``slim int8`` or ``dynamic`` in its run; empty for a single file.
    ``withheld``: runtimes that would run untrusted code of the run, and why they are not used.
    ``macs`` (of one image, a mean where images differ) and ``test_accuracy`` (0..1): from the run's report, or from
    an ONNX file's metadata; None where not known.
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

    def path_for(self, runtime: str) -> Path | None:
        """The file that ``runtime`` opens, or the run directory for a module; None where there is none."""
        chosen, _ = find_runtime(runtime)
        if chosen.name in self.withheld:
            return None
        paths = (self._path_of(chosen.name, form) for form in chosen.formats)
        return next((path for path in paths if path is not None), None)

    def _path_of(self, runtime: str, form: str) -> Path | None:
        """What a runtime opens of one of its formats."""
        if form == ".engine":
            return self.engines.get(runtime)
        if form == "module":
            return self.run if self.role in ("original", "slim") else None
        return self.files.get(form)

    def open(self, runtime: str) -> Path | nn.Module:
        """The file or module that ``open_runner`` takes for ``runtime``.

        Raises:
            SlimError: the module cannot be built.
        """
        path = self.path_for(runtime)
        assert path is not None
        return _rebuild_module(read_run(path), self.role) if path.is_dir() else path

    def missing_reason(self, runtime: str) -> str:
        """Why ``path_for`` returns None, in words."""
        chosen, _ = find_runtime(runtime)
        if chosen.name in self.withheld:
            return self.withheld[chosen.name]
        if chosen.formats == ("module",):
            return "a module needs a run directory: an exported file holds no module"
        forms = [f"{form} file" for form in chosen.formats if form not in ("module", ".engine")]
        what = " and no ".join(forms) or f"engine of {runtime}"
        return f"there is no {what} of it" + (": export one" if self.run else "")


def find_models(given: Sequence[str | Path], *, allow_code: bool = False) -> list[BenchModel]:
    """The models at the paths ``given``, in order; of a run its original, slim (in INT8 too) and dynamic model.

    Args:
        allow_code: also use modules and engines of runs whose code is not trusted (see ``allowed_code``).

    Raises:
        ConfigError: no path, one that is neither a run nor a model file, or a run without exported models.
        RunError: a folder is not a run directory.
        Damaged: a file of a run is not what was written.
        ExportError: a file is missing or truncated.
    """
    if not given:
        raise ConfigError(f"no model was given: give run directories or files ({', '.join(SUFFIXES)})")
    paths = [Path(text) for text in given]
    runs = sum(path.is_dir() for path in paths)
    models: list[BenchModel] = []
    for text, path in zip(map(str, given), paths, strict=True):
        if path.is_dir():
            models += _models_of_run(text, path, f"{path.absolute().name}: " if runs > 1 else "", allow_code)
        else:
            models.append(_model_of_file(text, path))
    return _with_unique_names(models)


def find_baseline(models: Sequence[BenchModel], wanted: str | None) -> BenchModel:
    """The first model, or the one with the name or the given path ``wanted``.

    Raises:
        ConfigError: no model has that name.
    """
    if wanted is None:
        return models[0]
    for model in models:
        if wanted in (model.name, model.given):
            return model
    names = [model.name for model in models]
    raise ConfigError(
        f"no model is called '{wanted}'{nearest(wanted, names)} (choose the baseline from: {', '.join(names)})"
    )


def common_image_size(models: Sequence[BenchModel]) -> tuple[tuple[int, int] | None, dict[str, int]]:
    """(H, W) of images for all models, None where each takes any size; and the batch size of models that fix it.

    Raises:
        ConfigError: models take images of different sizes.
        ExportError: a file is missing, truncated, or takes no images.
    """
    sizes: dict[str, tuple[int, int]] = {}
    batches: dict[str, int] = {}
    for model in models:
        for path in model.files.values():
            takes = read_input(path)
            if takes.size is not None:
                sizes[model.name] = takes.size
            if takes.batch is not None:
                batches[model.name] = takes.batch
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} takes {height} x {width}" for name, (height, width) in sizes.items())
        raise ConfigError(f"the models take images of different sizes ({listed} pixels): compare models of one size")
    return next(iter(sizes.values()), None), batches


def _model_of_file(given: str, path: Path) -> BenchModel:
    if path.suffix not in SUFFIXES:
        what = "does not exist" if not path.exists() else "is none of them"
        raise ConfigError(f"{given} {what}: give run directories or files ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise ConfigError(f"there is no {given}: give run directories or files ({', '.join(SUFFIXES)})")
    if path.suffix == ".engine":
        return BenchModel(path.name, given, engines=_engines_by_runtime([path]))
    macs = stated_macs(path) if path.suffix == ".onnx" else None
    return BenchModel(path.name, given, files={path.suffix: path}, macs=macs)


def _models_of_run(given: str, path: Path, prefix: str, allow_code: bool) -> list[BenchModel]:
    run = read_run(path)
    files_by_role = {
        "original": {".onnx": run.original_onnx},
        "slim": {".onnx": run.slim_onnx, ".pt2": run.slim_pt2, ".pte": run.export_json.parent / "model.pte"},
        SLIM_INT8: {".onnx": run.slim_int8("u8")},
        "dynamic": {".onnx": run.routed_onnx},
    }
    models, figures = [], _report_figures(run)
    code = {} if allow_code else _untrusted_modules(run)
    check_exports(run.export_json.parent)
    for role, files in files_by_role.items():
        built = [path for pattern in _ENGINE_PATTERNS[role] for path in run.root.glob(pattern)]
        built = [path for path in built if (".int8." in path.name) == (role == SLIM_INT8)]
        untrusted = [] if allow_code else [path for path in built if not was_built_here(path)]
        engines = _engines_by_runtime([path for path in built if path not in untrusted])
        withheld = code | {name: _UNTRUSTED_ENGINE for name in _engines_by_runtime(untrusted) if name not in engines}
        exist = {suffix: path for suffix, path in files.items() if path.is_file()}
        if exist or engines:
            macs, accuracy = figures.get(role, (None, None))
            models.append(
                BenchModel(f"{prefix}{role}", given, exist, engines, run.root, role, withheld, macs, accuracy)
            )
    if not models:
        raise ConfigError(f"the run {given} has no exported model yet: finish it with 'slimsight run'")
    return models


def _untrusted_modules(run: RunDir) -> dict[str, str]:
    """The runtimes that need a module, with the reason where this run's code is not trusted; else empty."""
    from ..settings.recipe import load_recipe

    reason = untrusted_code_reason(load_recipe(run.recipe).model) if run.recipe.is_file() else None
    names = () if reason is None else (name for name, one in all_runtimes().items() if "module" in one.formats)
    return {name: str(reason) for name in names}


def _report_figures(run: RunDir) -> dict[str, tuple[float, float | None]]:
    """MACs and test accuracy by role, from the run's report; empty where there is none yet."""
    from ..report import read_report

    if not run.report_json.is_file():
        return {}
    report = read_report(run.report_json)
    figures: dict[str, tuple[float, float | None]] = {
        "original": (report.original.macs, report.original.test_accuracy),
        "slim": (report.slim.macs, report.slim.test_accuracy),
    }
    if report.int8 is not None and (file := report.int8.slim) is not None:
        figures[SLIM_INT8] = (report.slim.macs, None if file.test is None else file.test.int8)
    if report.dynamic is not None:
        figures["dynamic"] = (report.dynamic.macs_mean, report.dynamic.test_accuracy)
    return figures


def _engines_by_runtime(paths: Sequence[Path]) -> dict[str, Path]:
    """One engine for each runtime; of several FP32 before FP16 and INT8, then the first by name."""
    engines: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (".fp32." not in path.name, path.name)):
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty: build the engine again")
        engines.setdefault(_engine_runtime(path), path)
    return engines


def _engine_runtime(path: Path) -> str:
    """``tensorrt`` or ``tensorrt-rtx``, by the key file beside an engine, else by ``rtx`` in its name."""
    key_file = sidecar(path)
    if key_file.is_file():
        try:
            content: Any = read_json(key_file)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{key_file} is not valid JSON ({error}): build the engine again") from error
        key = content.get("key") if isinstance(content, dict) else None
        if isinstance(key, dict) and key.get("flavour") in ("tensorrt", "tensorrt-rtx"):
            return str(key["flavour"])
    return "tensorrt-rtx" if "rtx" in path.name else "tensorrt"


def _with_unique_names(models: list[BenchModel]) -> list[BenchModel]:
    """Make names unique: by the folder of files with the same name, by a number for a file given twice."""

    def is_shared(model: BenchModel) -> bool:
        return any(other.name == model.name and other.given != model.given for other in models)

    names = [
        "/".join(Path(s.given).absolute().parts[-2:]) + (f": {s.role}" if s.role else "") if is_shared(s) else s.name
        for s in models
    ]
    counted: dict[str, int] = {}
    apart = []
    for model, name in zip(models, names, strict=True):
        counted[name] = counted.get(name, 0) + 1
        unique = name if counted[name] == 1 else f"{name} ({counted[name]})"
        apart.append(replace(model, name=unique))
    return apart


def _rebuild_module(run: RunDir, role: str) -> nn.Module:
    """A run's original or slim model as a module, from its recipe, its plan and its weights."""
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
