"""A whole run whose gates are steered by VarSal, on digits: it has no predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from slimsight.compress.errors import ConfigError
from slimsight.compress.explain import AmortizedExplainer
from slimsight.compress.files.atomic import read_tensors
from slimsight.compress.progress import SILENT
from slimsight.deploy.report import Report, read_report
from slimsight.deploy.run.pipeline import stage_fingerprints, to_stages
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import RunDir, read_run
from slimsight.deploy.settings.recipe import load_recipe

QUICK = (
    "gates.steer=varsal",
    "explainer.varsal.epochs=4",
    "explainer.varsal.lr=0.01",
    "explainer.varsal.batch_size=64",
    "export.formats=[onnx]",
)


def test_gates_are_steered_by_varsal_where_rbf_has_steered_before(
    finished: Any, cache: Path, tmp_path: Path, rerun: Callable[..., Report], say: Callable[..., Any]
) -> None:
    root = finished.copy(tmp_path / "run")
    report = rerun(root, *QUICK)
    assert report.verdict.passed
    stages = {stage.name: stage.reused for stage in report.stages}
    assert "predictor" not in stages
    assert [name for name, reused in stages.items() if reused] == ["classifier"]
    assert report.gates is not None
    assert report.gates.steer == "varsal"
    assert report.exactness.gated_vs_slim_max_rel is not None
    assert report.exactness.gated_vs_slim_max_rel <= 1e-5
    saliency = report.saliency
    assert saliency is not None
    assert (saliency.explainer, saliency.selector, saliency.area) == ("varsal", None, None)
    assert 0 < saliency.iou < 1
    assert saliency.ranking is not None
    assert sum(saliency.ranking.kl) < sum(saliency.ranking.kl_other) < sum(saliency.ranking.kl_random)
    assert read_report(root) == report
    text = (root / "report.md").read_text(encoding="utf-8")
    assert "steered by VarSal" in text
    (chance,) = [line.split("|") for line in text.splitlines() if line.startswith("| chance")]
    assert [float(cell) for cell in chance[2:-1]] == pytest.approx(saliency.ranking.kl_random, abs=1e-3)

    session = Session(load_recipe(root / "recipe.yaml"), read_run(root), SILENT, cache)
    targets = session.targets()
    assert targets is not None
    assert targets.numbers.dtype == torch.float16
    assert targets.numbers.shape == (len(session.splits.train), 8, 8)  # the finest scale, half the image's side
    original, (_, slim) = session.explained(), session.slim()
    assert slim is not None
    slim.selector.load_state_dict(read_tensors(root / "slim" / "explainer.safetensors"))
    found = [AmortizedExplainer(network).explain(session.some_images(4)) for network in (original, slim)]
    assert found[0].uncertainty is not None
    assert found[0].maps.shape == found[0].uncertainty.shape == (4, 16, 16)
    assert not torch.equal(found[0].maps, found[1].maps)
    with safe_open(root / "slim" / "explainer.safetensors", "pt") as file:
        assert file.metadata() == {"explainer": "varsal"}

    # What an earlier recipe left stays for it.
    assert read_run(root).record("predictor") is not None
    assert "predictor" not in say("status", root).out
    trusted = say("trust", root, "--images", 8, "--tests", "perturbation")
    assert trusted.code == 0
    assert "varsal" in trusted.out


def test_only_what_varsal_reads_matters_to_it(tiny: Path, cache: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        recipe = load_recipe(tiny, overrides)
        session = Session(recipe, RunDir(tiny.parent, writable=False), SILENT, cache)
        return stage_fingerprints(to_stages(recipe), session)

    rbf, varsal = keys(), keys("gates.steer=varsal")
    assert rbf.keys() - varsal.keys() == {"predictor"}
    assert {name for name in varsal if varsal[name] == rbf[name]} == {"classifier"}
    others = ("explainer.selector.epochs=9", "explainer.predictor.epochs=9", "explainer.target_area=0.3")
    assert keys("gates.steer=varsal", *others) == varsal
    assert keys("gates.steer=varsal", "explainer.varsal.epochs=9")["selector"] != varsal["selector"]
    assert keys("explainer.varsal.epochs=9") == rbf


def test_a_prior_that_images_of_this_size_do_not_allow_is_refused_at_once(
    tmp_path: Path, rerun: Callable[..., Report]
) -> None:
    with pytest.raises(ConfigError, match=r"alpha of the soft-TV prior is 0\.54; maps of 16 x 16 pixels allow"):
        rerun(tmp_path, "gates.steer=varsal", "explainer.varsal.alpha=0.54")
    assert not (tmp_path / "stages").exists()
