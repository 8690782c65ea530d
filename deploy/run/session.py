"""What the stages of one run share: recipe, images, device, and models rebuilt from finished stages' files.

A stage reads its inputs from files only, so that a resumed run computes what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from slimsight.compress.data import Flow, ImageSet, Splits
from slimsight.compress.dynamic import DynamicClassifier, find_routes
from slimsight.compress.errors import ModelError, PruningError
from slimsight.compress.explain import (
    STEERING,
    ExplainedClassifier,
    Predictor,
    SteeringExplainer,
    Targets,
    new_predictor,
    to_targets,
)
from slimsight.compress.files.atomic import read_metadata, read_tensors, write_tensors
from slimsight.compress.gates import CostModel, counted_limits, proxy_limits
from slimsight.compress.gates.scope import choose_scope
from slimsight.compress.models import (
    Backbone,
    Classifier,
    build_classifier,
    build_with_backbone,
    check_classifier,
    classes_known,
    restore_,
)
from slimsight.compress.parallel.processes import rank
from slimsight.compress.progress import Progress
from slimsight.compress.surgery import ChannelGraph, ProofCache, PrunePlan
from slimsight.compress.training import logits_of
from slimsight.export.onnx_files.metadata import About

from ..host import proof_folder
from ..host import writable_cache as writable_cache
from ..run_dir import RunDir
from ..settings.recipe import Recipe
from ..steps import JOINED, PROOF_IMAGES, classifier_of, find_groups, join_explainer, slim_copy, to_cost_model
from ..timing.plan_latency import PlanTimer
from .images import RunImages
from .model_code import ModelCode
from .refusal import Refusal
from .stage_table import stage_needs

_EXPLAINING = ("predictor", "selector", "targets")
PREDICTIONS = "predictions.safetensors"
_TIMED_IMAGES = 16
_NAMED = 3


@dataclass(frozen=True)
class Outcome:
    """A stage's result: figures for the report (JSON values) and the files that later stages read."""

    metrics: dict[str, Any]
    files: Sequence[Path]


def explainer_of(recipe: Recipe) -> SteeringExplainer[Any]:
    """The amortized explainer of a run: the one that steers, or ISP's, used to measure drift."""
    assert recipe.explainer.enabled, "the recipe has no explainer"
    return STEERING.get(recipe.gates.explainer or "rbf")


class Session(RunImages):
    """Shared state of one run's stages. Models come in eval mode, on the CPU until a stage moves them."""

    def __init__(self, recipe: Recipe, run: RunDir, progress: Progress, cache: Path) -> None:
        super().__init__(recipe, progress, cache)
        self.run = run

    def about(self, stage: str, *, macs_mean: float | None = None) -> About:
        """Metadata of an exported file that cannot be read from its model.

        Args:
            stage: the finished stage that made the model; its fingerprint stands for all of the recipe and the images
                that decided it, and for nothing else: not for where files lie, nor for how it is exported or timed.
            macs_mean: of a routed file.
        """
        made = self.run.record(stage)
        assert made is not None, f"stage '{stage}' makes the model"
        return About(made.fingerprint, self.classes, macs_mean=macs_mean, preprocessing=self.preprocessing)

    def new_classifier(self) -> tuple[Classifier, Backbone | None]:
        """The architecture with its given weights, if any, checked with two images; and what a backbone's file gave."""
        model, backbone = build_with_backbone(self.recipe.model, len(self.classes))
        check_classifier(model, self.opened.image_size, len(self.classes))
        return model, backbone

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes that the model tells apart; numbers where only its weights say how many there are."""
        if self.labelled:
            return self.opened.classes
        count = classes_known(self.recipe.model, self.opened.image_size)
        if count is None:
            raise ModelError(
                f"weights {self.recipe.model.weights} hold no last layer, so without labels there is nothing to slim "
                "towards: give the weights of the whole classifier"
            )
        return tuple(map(str, range(count)))

    @cached_property
    def code(self) -> ModelCode:
        """The user's code that makes the model."""
        return ModelCode.of(self.recipe.model, len(self.classes))

    @cached_property
    def splits(self) -> Splits:
        """The images with their labels. Without labels of their own: those that the original predicts.

        What it predicts is in its stage's file; stages after it may read this, none before. Test images keep no label:
        see ``predicted``.
        """
        if self.labelled:
            return self.opened
        found = read_tensors(self.stage_file("classifier", PREDICTIONS))
        return self.opened.relabelled(self.classes, found["train"].numpy(), found["val"].numpy())

    def predicted(self, model: Classifier, images: ImageSet, flow: Flow | None = None) -> ImageSet:
        """``images`` with the classes that ``model`` predicts as labels."""
        logits = logits_of(model, self.plain(images, flow))
        if not bool(logits.isfinite().all()):
            raise ModelError(
                f"the original's logits are not finite numbers on {int((~logits.isfinite()).any(1).sum())} images, so "
                "nothing can learn from it: are its weights and its normalisation right?"
            )
        return images.relabelled(logits.argmax(1).numpy(), self.classes)

    def write(self, path: Path, state: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
        """Write the tensors of ``state`` atomically; only rank 0 does. Other extra state is not stored."""
        if rank() == 0:
            tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
            write_tensors(path, tensors, metadata)

    def stage_file(self, stage: str, name: str) -> Path:
        return self.run.stage_dir(stage) / name

    def classifier(self) -> Classifier:
        """The original classifier, from its stage's file."""
        model = build_classifier(self.recipe.model.model_copy(update={"weights": None}), len(self.classes))
        restore_(model, self.stage_file("classifier", "model.safetensors"))
        return model.eval()

    @property
    def explainer(self) -> SteeringExplainer[Any]:
        """The run's amortized explainer."""
        return explainer_of(self.recipe)

    def refusal_before(self, stage: str | None = None) -> Refusal | None:
        """Why the explainer's stages before ``stage`` (None: all of them) refused it; None: they did not.

        A record of a later stage may be of another explainer, until that stage has run again.
        """
        for name in stage_needs(self.recipe):
            if name == stage:
                return None
            record = self.run.record(name) if name in _EXPLAINING else None
            if record is not None and (found := Refusal.of_metrics(record.metrics)) is not None:
                return found
        return None

    @property
    def refusal(self) -> Refusal | None:
        """Why the finished stages of the explainer found that it cannot steer; None: they did not."""
        return self.refusal_before()

    @property
    def explains(self) -> bool:
        """Whether the run has an explainer: the recipe asks for one, and it was not found useless."""
        refusal = self.refusal
        return self.recipe.explainer.enabled and (refusal is None or refusal.explains)

    @property
    def why_no_explainer(self) -> str:
        """Why the run has no explainer of its own, for messages."""
        if not self.recipe.explainer.enabled:
            return "explainer.enabled is false"
        refusal = self.refusal
        return "it is not trained yet" if refusal is None else f"the run went on without it: {refusal.why}"

    def predictor(self) -> Predictor | None:
        """The trained q_pred; None for an explainer that learns without one."""
        if self.explainer.masks is None:
            return None
        predictor = new_predictor(self.classifier(), self.recipe.explainer.predictor)
        restore_(predictor, self.stage_file("predictor", "predictor.safetensors"))
        return predictor.eval()

    def new_explained(self) -> ExplainedClassifier:
        """The original joined with an untrained selector."""
        return join_explainer(self.classifier(), self.example, len(self.classes), self.explainer.head)

    def explained(self) -> ExplainedClassifier:
        """The original joined with its trained selector."""
        network = self.new_explained()
        path = self.stage_file("selector", "selector.safetensors")
        restore_(network.selector, path)
        network.selector.head.read_metadata_(read_metadata(path))
        return network.eval()

    def targets(self) -> Targets | None:
        """C_x from the targets stage; None if no explainer steers, or it was refused."""
        if self.recipe.gates.explainer is None or self.refusal is not None:
            return None
        head = self.new_explained().selector.head
        return to_targets(head, read_tensors(self.stage_file("targets", "targets.safetensors"))[head.kind])

    def network(self) -> ExplainedClassifier | Classifier:
        """The network that is traced, gated and slimmed: the classifier, joined with its explainer if there is one."""
        return self.explained() if self.explains else self.classifier()

    @cached_property
    def graph(self) -> ChannelGraph:
        """Channel groups of the original that may shrink: those that are proven, within ``gates.scope``.

        Raises:
            PruningError: not one group can shrink.
        """
        proven, budget = self.find_groups(self.network()), self.recipe.budget
        align = budget.align if isinstance(budget.align, int) else 1
        limits = partial(proxy_limits, budget)
        graph = choose_scope(proven, self.recipe.gates.scope, self._cost_of, limits, align)
        if not graph.groups:
            raise self._nothing_to_prune(graph)
        return graph

    def _cost_of(self, graph: ChannelGraph) -> CostModel:
        prefix = JOINED if self.explains else ""
        return to_cost_model(self.classifier(), self.example, graph, prefix=prefix)

    def find_groups(self, network: ExplainedClassifier | Classifier) -> ChannelGraph:
        """Channel groups of a network, each proven by a dry run.

        Raises:
            PruningError: not one group can shrink.
        """
        proofs = ProofCache(proof_folder(self.cache))
        graph = find_groups(network, self.some_images(PROOF_IMAGES), progress=self.progress, proofs=proofs)
        if not graph.groups:
            raise self._nothing_to_prune(graph)
        return graph

    def _nothing_to_prune(self, graph: ChannelGraph) -> PruningError:
        named = [f"{group.name}: {group.reason}" for group in graph.frozen]
        more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        reasons = "; ".join(named[:_NAMED]) + more if named else "it has no convolution and no linear layer"
        return PruningError(
            f"model '{self.recipe.model.name}' has nothing to prune ({reasons}); choose a model with channels "
            "between two layers that nothing else ties"
        )

    @cached_property
    def cost(self) -> CostModel:
        """MACs of the classifier as a function of gates."""
        return self._cost_of(self.graph)

    @property
    def limits(self) -> dict[str, float]:
        """The recipe's countable budgets: all but latency, which has to be measured."""
        return counted_limits(self.recipe.budget, self.cost)

    @contextmanager
    def timer(self) -> Iterator[PlanTimer]:
        """Context: times the models of plans against the original."""
        images = self.some_images(_TIMED_IMAGES)

        recipe = self.recipe
        timer = PlanTimer(
            self.classifier(),
            lambda plan: classifier_of(self.slimmed(plan)),
            images,
            recipe.latency,
            self.cache,
            precision=recipe.budget.precision,
            opset=recipe.export.opset,
            seed=recipe.seed,
            progress=self.progress,
        )
        with timer:
            yield timer

    def slimmed(self, plan: PrunePlan) -> ExplainedClassifier | Classifier:
        """The original (and its explainer) after surgery."""
        return slim_copy(self.network(), plan, self.example)

    def new_dynamic(self) -> DynamicClassifier:
        """The original with untrained routes, without an explainer."""
        classifier = self.classifier()
        graph = self.find_groups(classifier)
        routes = find_routes(classifier, graph, self.example)
        return DynamicClassifier(classifier, routes, self.recipe.dynamic.masks).eval()

    def dynamic(self) -> DynamicClassifier:
        """The trained dynamic variant."""
        model = self.new_dynamic()
        restore_(model, self.stage_file("dynamic", "model.safetensors"))
        return model.eval()

    def slim(self) -> tuple[Classifier, ExplainedClassifier | None]:
        """The finetuned slim classifier, alone and with its explainer."""
        network = self.slimmed(PrunePlan.load(self.run.plan))
        explained = network if isinstance(network, ExplainedClassifier) else None
        classifier = classifier_of(network)
        restore_(classifier, self.run.slim_model)
        return classifier, explained
