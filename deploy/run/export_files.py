"""Writes the files of one export: ONNX in FP32, FP16 and INT8, engines built from it, and ``.pt2``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from torch import nn

from slimsight.compress.errors import ConfigError, ExportError, RuntimeMissing
from slimsight.compress.training import Learning
from slimsight.export.config import Int8Config
from slimsight.export.engines.key import sidecar
from slimsight.export.engines.result import BatchProfile, EngineResult, Precision
from slimsight.export.half.precision import export_fp16
from slimsight.export.int8.make import Int8Model, make_int8
from slimsight.export.int8.quantise import Scheme
from slimsight.export.onnx_files.metadata import PRECISION, model_metadata, read_metadata
from slimsight.export.onnx_files.quantised import Form
from slimsight.export.parity.prove import PARITY_BATCHES, Artifact
from slimsight.export.pt2.contents import read_pt2_metadata
from slimsight.export.pt2.export import export_pt2
from slimsight.export.pte.lower import Delegation, export_pte, says_slimsight
from slimsight.export.pte.runtime import why_no_executorch
from slimsight.export.routed.export import export_masked, export_routed
from slimsight.export.runners import to_input
from slimsight.export.tensorrt_build.export import Flavour, export_engine
from slimsight.export.to_onnx import export_onnx, verify_shapes

from ..run_dir.allowed_code import was_built_here
from ..run_dir.exports import exported_names
from ..timing.file_ratio import time_file_ratio
from .session import Session
from .stages.int8 import PROOF_IMAGES, training_calibration, training_control, training_qat

Format = Literal["onnx", "pt2", "executorch", "tensorrt", "tensorrt-rtx"]
FORMATS = get_args(Format)
_INT8_SUFFIXES: dict[Form, str] = {"u8": ".int8.onnx", "s8": ".int8.trt.onnx"}
PRECISIONS = get_args(Precision)

_EXAMPLES = 2
_SAMPLES = 32
"""Number of images used to find values that overflow FP16."""


@dataclass
class Files:
    """Writes the files of one run; ``engines`` by file name, and ``skipped``: (what, why) it could not write here.

    ``delegations``: what ``.pte`` files run in XNNPACK, by file name.
    ``int8_models``: INT8 files with their proofs. They are not compared with PyTorch, but with their own arithmetic.

    Args:
        formats: engines are built from ONNX files, which are then written too.
        precisions: of ONNX files and engines; ``.pt2`` is as the model is.
        profile: images per call that engines take and that artefacts are compared at; None: as each takes them.
        int8: how INT8 files are made.
    """

    session: Session
    folder: Path
    opset: int
    formats: Sequence[str]
    precisions: Sequence[Precision]
    profile: BatchProfile | None
    int8: Int8Config
    engines: dict[str, EngineResult] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    int8_models: list[Int8Model] = field(default_factory=list)
    delegations: dict[str, Delegation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.example = self.session.some_images(_EXAMPLES)
        self.samples = np.asarray(self.session.some_images(_SAMPLES))
        self.batches = self.profile.sizes if self.profile is not None else PARITY_BATCHES
        self.flavours: list[Flavour] = [name for name in get_args(Flavour) if name in self.formats]

    def check_targets(self) -> None:
        """Refuse to replace files that no export wrote.

        Raises:
            ConfigError: names the first.
            RuntimeMissing: ExecuTorch is asked for and not installed.
        """
        if "executorch" in self.formats and (missing := why_no_executorch()) is not None:
            raise RuntimeMissing(missing)
        listed = exported_names(self.folder)
        for path in self._targets():
            if path.exists() and path.name not in listed and not _says_so(path):
                raise ConfigError(
                    f"{path} exists, and slimsight did not export it: it is kept; move it away, or choose another "
                    "folder with --out"
                )

    def _targets(self) -> Iterator[Path]:
        """The files that ``write`` may write."""
        if "pt2" in self.formats:
            yield self.folder / "model.pt2"
        if "executorch" in self.formats:
            yield self.folder / "model.pte"
            yield self.folder / "model.int8.pte"
        dynamic = ("masked.onnx", "routed.onnx") if self.session.recipe.dynamic.enabled else ()
        for name in ("model.onnx", *dynamic) if self._needs_onnx() else ():
            source = self.folder / name
            yield source
            if "fp16" in self.precisions and "onnx" in self.formats:
                yield source.with_suffix(".fp16.onnx")
            if "int8" in self.precisions:
                yield from (source.with_suffix(suffix) for suffix in _INT8_SUFFIXES.values())
            for flavour in self.flavours:
                yield from (source.with_suffix(f".{flavour}.{precision}.engine") for precision in self.precisions)

    def write(self) -> list[Artifact]:
        """The slim model's files, then those of the dynamic one where the run has it."""
        artifacts = list(self._slim())
        if self.session.recipe.dynamic.enabled:
            artifacts += self._dynamic()
        return artifacts

    def _slim(self) -> Iterator[Artifact]:
        model, _ = self.session.slim()
        if self._needs_onnx():
            path = self.folder / "model.onnx"
            export_onnx(model, self.example, path, opset=self.opset, about=self.session.about("finetune"))
            verify_shapes(path, model)
            yield from self._of_onnx(Artifact(path, path.name, model, batches=self.batches), self.profile)
        if "pt2" in self.formats:
            path = self.folder / "model.pt2"
            about = self.session.about("finetune")
            export_pt2(model, self.example, path, model_metadata(model, self.example, len(about.classes), about))
            yield Artifact(path, path.name, model, "pt2", batches=self.batches)
        if "executorch" in self.formats:
            yield from self._pte(model)

    def _pte(self, model: nn.Module) -> Iterator[Artifact]:
        """Write ``model.pte``, and ``model.int8.pte``: for one image per call, unless the user asks for more."""
        about, batches = self.session.about("finetune"), (1,) if self.profile is None else self.profile.sizes
        metadata = model_metadata(model, self.example, len(about.classes), about)
        quantised = "int8" in self.precisions
        if "fp32" in self.precisions or not quantised:
            path = self.folder / "model.pte"
            self.delegations[path.name] = export_pte(model, self.example, path, metadata, most=max(batches))
            yield Artifact(path, path.name, model, "executorch", batches=batches)
        if quantised:
            path, images = self.folder / "model.int8.pte", training_calibration(self.session, self.int8.images)
            self.delegations[path.name] = export_pte(
                model,
                self.example,
                path,
                metadata | {PRECISION: "int8"},
                most=max(batches),
                calibration=to_input(images.pixels),
            )
            if self.int8.accuracy_control.limits or self.int8.method != "minmax":
                why = "ranges of .pte files are extremes, and all layers are quantised; ONNX files have both"
                self.skipped.append((f"accuracy control or method of {path.name}", why))
            yield Artifact(path, path.name, model, "executorch", "int8", batches)

    def _dynamic(self) -> Iterator[Artifact]:
        for name in ("pt2", "executorch"):
            if name not in self.formats:
                continue
            why = "a traced graph computes every channel; ONNX has the routed form"
            self.skipped.append((f"dynamic model as {name}", why))
        if not self._needs_onnx():
            return
        learned = self.session.run.record("dynamic")
        assert learned is not None, "export_run has looked"
        model = self.session.dynamic()
        about = self.session.about("dynamic", macs_mean=learned.metrics["macs_mean"])
        masked, routed = self.folder / "masked.onnx", self.folder / "routed.onnx"
        export_masked(model, self.example, masked, opset=self.opset, about=about)
        yield Artifact(masked, masked.name, model, batches=self.batches)
        route = self.session.recipe.dynamic.route
        export_routed(model, self.example, routed, route=route, opset=self.opset, about=about)
        yield from self._of_onnx(Artifact(routed, routed.name, model, "routed", batches=(1,)), None)

    def _needs_onnx(self) -> bool:
        return "onnx" in self.formats or bool(self.flavours)

    def _of_onnx(self, artifact: Artifact, profile: BatchProfile | None) -> Iterator[Artifact]:
        """Write an ONNX file, its FP16 form, and its engines."""
        source, model = artifact.path, artifact.model
        if "fp32" in self.precisions or self.flavours or "int8" in self.precisions:
            yield artifact
        if "fp16" in self.precisions and "onnx" in self.formats:
            half = source.with_suffix(".fp16.onnx")
            export_fp16(source, half, self.samples)
            yield Artifact(half, half.name, model, artifact.kind, "fp16", artifact.batches)
        forms = self._quantise(artifact) if "int8" in self.precisions else {}
        for flavour in self.flavours:
            for precision in self.precisions:
                if precision == "int8" and "s8" not in forms:
                    continue
                built_from = replace(artifact, path=forms["s8"]) if precision == "int8" else artifact
                path = source.with_suffix(f".{flavour}.{precision}.engine")
                built = self._engine(built_from, path, flavour, precision, profile)
                if built is not None:
                    yield _of_engine(built, model)

    def _quantise(self, artifact: Artifact) -> dict[Form, Path]:
        """Write the INT8 forms that the formats need, and those that the recipe asks for; returns their paths."""
        source = artifact.path
        if artifact.kind == "routed":
            why = "onnxruntime.quantization leaves layers in the branches of an If in FP32"
            self.skipped.append((f"{source.stem} in int8", why))
            return {}
        wanted = {"u8": "onnx" in self.formats, "s8": bool(self.flavours) or "s8" in self.int8.forms}
        paths: dict[Form, Path] = {}
        calibration = training_calibration(self.session, self.int8.images)
        control = training_control(self.session, calibration, self.int8)
        learning = Learning(self.session.fabric, progress=self.session.progress)
        qat = training_qat(self.session, learning, self.int8)
        pixels = self.session.some_pixels(PROOF_IMAGES)
        for form in get_args(Form):
            if wanted[form]:
                paths[form] = source.with_suffix(_INT8_SUFFIXES[form])
                scheme = Scheme(form, self.int8.method, self.int8.weights)
                made = make_int8(
                    source,
                    paths[form],
                    calibration,
                    pixels,
                    scheme=scheme,
                    control=control,
                    qat=qat,
                    time_ratio=partial(time_file_ratio, images=pixels, progress=self.session.progress),
                    progress=self.session.progress,
                )
                self.int8_models.append(made)
        return paths

    def _engine(
        self, source: Artifact, path: Path, flavour: Flavour, precision: Precision, profile: BatchProfile | None
    ) -> EngineResult | None:
        """Build an engine; None, with the reason in ``skipped``, if it cannot be built here."""
        if path.is_file() and not was_built_here(path, self.session.cache):
            path.unlink()  # one of somebody else's would be opened to be used again
        try:
            built = export_engine(
                source.path, path, flavour=flavour, precision=precision, profile=profile, samples=self.samples
            )
        except RuntimeMissing as missing:
            self.skipped.append((path.name, str(missing)))
            return None
        except ExportError as error:
            if source.kind != "routed":
                raise
            # TensorRT wants one number of channels behind both branches of an If where a route follows on a route.
            self.skipped.append((path.name, f"{error}; run {source.path.name} in ONNX Runtime"))
            return None
        self.engines[path.name] = built
        return built


def _says_so(path: Path) -> bool:
    """Whether a file says that slimsight wrote it; an engine has a file beside it that does."""
    if path.suffix == ".engine":
        return sidecar(path).is_file()
    if path.suffix == ".pte":
        return says_slimsight(path)
    try:
        return bool(read_metadata(path).all) if path.suffix == ".onnx" else bool(read_pt2_metadata(path))
    except ExportError:
        return False


def _of_engine(built: EngineResult, model: nn.Module) -> Artifact:
    return Artifact(built.path, built.path.name, model, built.flavour, built.precision, built.profile.sizes)
