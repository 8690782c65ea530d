"""A whole run whose gates are steered by REAL-X, on digits; what changes when the explainer does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open

from slimsight.compress.config import GatesConfig
from slimsight.compress.explain import RealXExplainer
from slimsight.compress.files.atomic import read_tensors
from slimsight.compress.progress import SILENT
from slimsight.deploy.report import Report
from slimsight.deploy.run.pipeline import Stage, stage_fingerprints, to_stages
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import RunDir, read_run
from slimsight.deploy.settings.recipe import load_recipe

QUICK = ("explainer.selector.epochs=6", "explainer.selector.lr=0.01", "export.formats=[onnx]")


def test_gates_are_steered_by_realx_end_to_end(cache: Path, tmp_path: Path, rerun: Callable[..., Report]) -> None:
    report = rerun(tmp_path, "gates.steer=realx", *QUICK)
    assert report.verdict.passed
    assert report.gates is not None
    assert report.gates.steer == "realx"
    assert report.saliency is not None
    assert report.saliency.explainer == "realx"
    assert 0 < report.saliency.iou < 1
    assert report.saliency.selector is not None
    assert report.saliency.selector.kl < report.saliency.selector.kl_random
    assert report.exactness.gated_vs_slim_max_rel is not None
    assert report.exactness.gated_vs_slim_max_rel <= 1e-5
    assert "steered by REAL-X" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "saliency.png").is_file()

    session = Session(load_recipe(tmp_path / "recipe.yaml"), read_run(tmp_path), SILENT, cache)
    targets = session.targets()
    assert targets is not None
    assert targets.numbers.dtype == torch.float16
    assert targets.numbers.shape == (len(session.splits.train), 8, 8)  # the finest scale, half the image's side
    original, (_, slim) = session.explained(), session.slim()
    assert slim is not None
    slim.selector.load_state_dict(read_tensors(tmp_path / "slim" / "explainer.safetensors"))
    maps = [RealXExplainer(network).explain(session.some_images(4)).maps for network in (original, slim)]
    assert maps[0].shape == maps[1].shape == (4, 16, 16)
    assert not torch.equal(*maps)
    with safe_open(tmp_path / "slim" / "explainer.safetensors", "pt") as file:
        assert file.metadata() == {"explainer": "realx"}


def test_another_explainer_is_learned_anew_and_nothing_before_it(tiny: Path, cache: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        recipe = load_recipe(tiny, overrides)
        session = Session(recipe, RunDir(tiny.parent, writable=False), SILENT, cache)
        return stage_fingerprints(to_stages(recipe), session)

    rbf, pixels = keys(), keys("gates.steer=realx")
    hard = keys("gates.steer=realx", "explainer.realx.variant=original")
    assert rbf.keys() == pixels.keys()
    assert {name for name in rbf if rbf[name] == pixels[name]} == {"classifier"}
    assert {name for name in rbf if hard[name] == pixels[name]} == {"classifier"}
    # What REAL-X is does not matter to runs that do not use it; RBF masks do not matter to REAL-X.
    assert keys("explainer.realx.variant=original") == rbf
    assert keys("gates.steer=realx", "explainer.masks.sigma=[4, 9]") == pixels


def test_a_weight_on_cross_entropy_is_part_of_what_gates_were_learned_from(tiny: Path, cache: Path) -> None:
    def opened(*overrides: str) -> tuple[tuple[Stage, ...], Session]:
        recipe = load_recipe(tiny, overrides)
        return to_stages(recipe), Session(recipe, RunDir(tiny.parent, writable=False), SILENT, cache)

    plain, other = (stage_fingerprints(*opened(*overrides)) for overrides in ((), ("gates.class_weight=0.5",)))
    changed = {name for name in plain if plain[name] != other[name]}
    assert changed == {"gates", "surgery", "finetune", "export", "latency", "judgement"}
    # Runs from before there was such a weight read no other settings than these.
    stages, session = opened()
    (gates,) = (stage for stage in stages if stage.name == "gates")
    assert gates.reads(session)["gates"].keys() == set(GatesConfig.model_fields) - {"compile", "class_weight", "scope"}
