"""The points of the ablation study (recipes, seeds, weights) and the stages that they share."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from slimsight.compress.data import Batches
from slimsight.compress.errors import RunError
from slimsight.compress.explain import ExplainedClassifier, Targets, explanations, find_targets
from slimsight.compress.files.atomic import read_tensors
from slimsight.compress.surgery import PrunePlan
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.run.pipeline import run_recipe, stage_fingerprints, to_stages
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import read_run
from slimsight.deploy.settings.recipe import Recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "configs" / "ablations"
LEARNED = ("classifier", "predictor", "selector")
FIG_4B = ("full", "ce_only", "interpretation_rbf")
REALX = "interpretation_realx"
SWEEPS = {"steer_weight": (0.0125, 0.2, 0.8), "cost_weight": (0.5, 8.0)}
"""Beside what the recipes say; g1 = 0 is ce_only."""

SWEPT_SEED = 0


@dataclass(frozen=True)
class Point:
    """A recipe, a seed and at most one weight that is not the recipe's."""

    recipe: str
    seed: int
    weight: tuple[str, float] | None = None

    @property
    def name(self) -> str:
        return "-".join([f"seed{self.seed}", self.recipe, *map(str, self.weight or ())])


def points(seeds: Sequence[int]) -> list[Point]:
    """All points, those that most depends on first."""
    terms = [Point(recipe, seed) for seed in seeds for recipe in FIG_4B] + [Point(REALX, seed) for seed in seeds]
    swept = [Point("full", SWEPT_SEED, (name, value)) for name, values in SWEEPS.items() for value in values]
    return terms + (swept if SWEPT_SEED in seeds else [])


class GivenSelector(Session):
    """A session whose explainer is a selector learned elsewhere on the same classifier.

    Args:
        selector: its weights.
        run: whose classifier it is.
    """

    def __init__(self, selector: Path, recipe: Recipe, run: Session) -> None:
        super().__init__(recipe, run.run, run.progress, run.cache)
        self.selector = selector

    def explained(self) -> ExplainedClassifier:
        network = self.new_explained()
        network.selector.load_state_dict(read_tensors(self.selector))
        return network.eval()


class Study:
    """Where everything is, and what points share."""

    def __init__(self, given: Namespace, progress: ConsoleProgress) -> None:
        self.given, self.progress = given, progress
        self.session = functools.cache(self._session)
        self.targets = functools.cache(self._targets)
        self.said = functools.cache(self._said)

    def recipe(self, point: Point) -> Recipe:
        weight = [] if point.weight is None else ["gates.{}={}".format(*point.weight)]
        return load_recipe(RECIPES / f"{point.recipe}.yaml", [*self.given.set, f"seed={point.seed}", *weight])

    def has_realx(self, seed: int) -> bool:
        """Has REAL-X been learned?"""
        place = self.given.runs / f"seed{seed}-realx"
        return self.given.realx is not None or (place.is_dir() and read_run(place).record("selector") is not None)

    def _session(self, kind: str, seed: int) -> Session:
        """The run of an explainer; made if it is not there."""
        recipe = self.recipe(Point(f"interpretation_{kind}", seed))
        if kind == "realx" and self.given.realx:
            return GivenSelector(self.given.realx, recipe, self.session("rbf", seed))
        place = self.given.runs / f"seed{seed}-{kind}"
        if not place.is_dir():
            run_recipe(recipe, place, name=f"interpretation_{kind}.yaml", progress=self.progress)
        session = Session(recipe, read_run(place), self.progress, default_cache())
        keys = stage_fingerprints(to_stages(recipe), session)
        for stage in LEARNED:
            if session.run.valid_record(stage, keys[stage]) is None:
                raise RunError(
                    f"stage '{stage}' of {place} is not done, or from another recipe than interpretation_{kind}.yaml "
                    "with what --set says; give other --runs or --set, or move it away and it is run"
                )
        return session

    def at(self, point: Point) -> Session:
        """A point's recipe on the run of the explainer that it learns with or is measured by."""
        recipe = self.recipe(point)
        session = self.session(recipe.gates.explainer or "rbf", point.seed)
        if isinstance(session, GivenSelector):
            return GivenSelector(session.selector, recipe, session)
        return Session(recipe, session.run, self.progress, session.cache)

    def _targets(self, kind: str, seed: int) -> Targets:
        """C_x of the images that the gates of ``seed`` see."""
        session = self.session(kind, seed)
        return find_targets(session.explained(), session.plain(session.gate_images()), progress=self.progress)

    def folder(self, point: Point) -> Path:
        """Where plan and weights of a point are."""
        place: Path = self.given.out / point.name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def slim(self, point: Point, kind: str = "rbf") -> ExplainedClassifier:
        """A point's network as surgery leaves it, with the explainer ``kind``."""
        plan = PrunePlan.load(self.folder(point) / "plan.json")
        network = self.session(kind, point.seed).slimmed(plan)
        assert isinstance(network, ExplainedClassifier)
        return network

    def judged(self) -> Batches:
        """The validation images that drift is a mean over, spread over the classes."""
        val = self.session("rbf", self.given.seed[0]).splits.val
        chosen = np.linspace(0, len(val) - 1, min(self.given.images, len(val))).round().astype(np.int64)
        return Batches(val.subset(chosen), 125)

    def _said(self, kind: str, seed: int) -> Tensor:
        """What an amortized explainer says of the original."""
        return explanations(self.session(kind, seed).explained(), self.judged())
