"""The steps that slim a network, each with its checks: called by the Python API, by a run's stages and by ``inspect``.

A network is a classifier, alone or joined with its explainer (``ExplainedClassifier``), so that one surgery slims both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from torch import Tensor, nn

from slimsight.compress.config import ExplainerConfig
from slimsight.compress.data import BatchSource, Subsample
from slimsight.compress.errors import PruningError
from slimsight.compress.explain import (
    ExplainedClassifier,
    Predictor,
    Quality,
    Selector,
    SteeringExplainer,
    find_scales,
    judge_predictor,
    new_predictor,
    refuse_constant,
    train_predictor,
)
from slimsight.compress.explain.amortized.heads import Head
from slimsight.compress.gates import (
    CostModel,
    Selection,
    check_budget,
    select,
)
from slimsight.compress.gates.widths import Align
from slimsight.compress.macs import count_macs, count_params, size_bytes
from slimsight.compress.models import Classifier
from slimsight.compress.modes import one_thread
from slimsight.compress.modules import copy_of
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.surgery import (
    ChannelGraph,
    FrozenGroup,
    ProofCache,
    PrunePlan,
    View,
    differences,
    freeze_training_only,
    prove_groups,
    slim_,
    trace_groups,
)
from slimsight.compress.training import History, Learning

N = TypeVar("N", bound=nn.Module)

PROOF_IMAGES = 4
"""Images that channel groups are proven on."""

JOINED = ExplainedClassifier.PREFIX
"""Prefix of the classifier's layers in a network that also explains it."""

_JUDGED_IMAGES = 1024
"""Validation images, at most, that a predictor is judged on."""


def find_groups(
    network: nn.Module,
    images: Tensor,
    *,
    prefix: str | None = None,
    progress: Progress = SILENT,
    announce: bool = False,
    proofs: ProofCache | None = None,
    **options: Any,
) -> ChannelGraph:
    """The channel groups of ``network``, each proven by a dry run on a copy; what fails is frozen, with its reason.

    Args:
        images: (N, C, H, W), as the network takes them.
        prefix: of the layers that may shrink; by default all of a classifier, and the classifier of a joined network.
        announce: tell ``progress`` how many groups there are before they are proven.
        proofs: where proofs are kept and looked up; None: the groups are proven here and now.
        options: see ``prove_groups``.

    Raises:
        PruningError: the network's channels cannot be followed.
    """
    inner, view = _scope(network)
    prefix = inner if prefix is None else prefix
    with one_thread():
        graph = trace_groups(network, images[:1], prefix=prefix, view=view)
        graph = freeze_training_only(network, graph, images, prefix=prefix, progress=progress)
    if announce:
        progress.note(f"{len(graph.groups)} channel groups found; each is proven on a copy")
    prove = prove_groups if proofs is None else proofs.prove_groups
    return prove(network, graph, images, prefix=prefix, view=view, progress=progress, **options)


@one_thread()
def to_cost_model(
    model: nn.Module, example: Tensor, graph: ChannelGraph, *, prefix: str = "", counted: int | None = None
) -> CostModel:
    """What ``model`` costs as a function of open channels; its MACs are those that fvcore counts.

    Args:
        prefix: of the model's layers in the network that ``graph`` was traced in.
        counted: MACs of the model by fvcore, where the caller counted them already.

    Raises:
        PruningError: fvcore counts something else.
    """
    total = count_macs(model, example[:1]).total if counted is None else counted
    cost = CostModel.of(model, example[:1], graph.groups, prefix=prefix, macs=total)
    if cost.fixed < 0:
        _check_macs(cost.total - cost.fixed, total)
    if cost.fixed and graph.groups:
        _check_fixed(model, example[:1], cost)
    return cost


def _check_fixed(model: nn.Module, example: Tensor, cost: CostModel) -> None:
    """Check on a copy with half of the channels that what is no layer costs the same there."""
    plan = PrunePlan(
        {name: tuple(range(max(1, width // 2))) for name, width in zip(cost.names, cost.widths, strict=True)},
        dict(zip(cost.names, cost.widths, strict=True)),
    )
    _check_macs(cost.of_plan(plan), count_macs(slim_copy(model, plan, example), example).total)


def join_explainer(classifier: Classifier, example: Tensor, classes: int, head: type[Head]) -> ExplainedClassifier:
    """``classifier`` joined with an untrained selector on its feature pyramid.

    Args:
        example: (N, C, S, S) square images.

    Raises:
        ModelError: the classifier has no feature maps to explain with.
    """
    selector = Selector(find_scales(classifier, example[:1]), classes, example.shape[-1], head)
    return ExplainedClassifier(classifier, selector).eval()


def learn_predictor(
    explainer: SteeringExplainer[Any],
    classifier: Classifier,
    train: BatchSource,
    val: BatchSource,
    learning: Learning,
    config: ExplainerConfig,
) -> tuple[Predictor, History] | None:
    """q_pred, trained on masked images and judged on some of ``val``; None for an explainer that learns without one.

    Raises:
        ExplainerRefused: it is no better than a constant prediction.
    """
    if explainer.masks is None:
        return None
    predictor = new_predictor(classifier, config.predictor)
    draw = explainer.masks(config)
    history = train_predictor(predictor, classifier, train, val, learning, config=config.predictor, draw=draw)
    quality = judge_predictor(predictor, classifier, Subsample(val, _JUDGED_IMAGES), learning.fabric, draw)
    learning.progress.note(f"predictor: {quality.in_words()}")
    refuse_constant(quality)
    return predictor, history


def learn_selector(
    explainer: SteeringExplainer[Any],
    network: ExplainedClassifier,
    predictor: Predictor | None,
    train: BatchSource,
    val: BatchSource,
    learning: Learning,
    config: ExplainerConfig,
) -> tuple[Quality, History]:
    """Train the selector of ``network`` and judge it on ``val``.

    Raises:
        ExplainerRefused: it collapsed, or is no better than centred masks of the same area.
    """
    history = explainer.train(network, predictor, train, val, learning, config=config)
    quality = explainer.judge(network, predictor, val, learning.fabric, config=config)
    learning.progress.note(f"selector: {quality.in_words()}")
    explainer.refuse(quality, config)
    return quality, history


def choose_plan(
    cost: CostModel,
    scores: Mapping[str, Tensor],
    limits: Mapping[str, float],
    *,
    align: Align = 1,
    rank_weight: float = 1.0,
    frozen: Sequence[FrozenGroup] = (),
) -> Selection:
    """The channels that all ``limits`` allow, best scores first (``select``).

    Raises:
        PruningError: nothing can shrink, or a limit is out of reach; the message names the smallest amount.
    """
    check_budget(cost, limits, align if isinstance(align, int) else 1, frozen=frozen)
    return select(cost, scores, budget=limits, align=align, rank_weight=rank_weight)


def slim_copy(network: N, plan: PrunePlan, example: Tensor, *, prefix: str | None = None) -> N:
    """A copy of ``network`` without the channels that ``plan`` does not keep, in eval mode.

    Raises:
        PruningError: the plan does not fit the network.
    """
    twin = copy_of(network)
    inner, view = _scope(twin)
    slim_(twin, plan, example[:1], prefix=inner if prefix is None else prefix, view=view)
    return twin.eval()


@dataclass(frozen=True)
class CountedCosts:
    """What a model is made of: MACs for one image (by fvcore), parameters, bytes of its tensors."""

    macs: int
    params: int
    size_bytes: int


@dataclass(frozen=True)
class SlimProof:
    """Evidence that surgery removed what the plan says and nothing else.

    Attributes:
        max_rel: largest difference between closed gates and the slim network, relative to the largest output.
        original, slim: of the two classifiers, without explainers.
        outputs: ``max_rel`` of every output by its name.
    """

    max_rel: float
    original: CountedCosts
    slim: CountedCosts
    outputs: Mapping[str, float]


@one_thread()
def prove_slim(
    original: nn.Module, slim: nn.Module, graph: ChannelGraph, cost: CostModel, plan: PrunePlan, images: Tensor
) -> SlimProof:
    """Compare a slim network with the original whose gates are closed, and its MACs with the cost model's and fvcore's.

    Raises:
        PruningError: cost model and fvcore disagree about the MACs of either, or the slim network has other parameters
            or bytes than the plan was chosen for.
    """
    outputs = differences(original, slim, graph.groups, plan, images)
    example = images[:1]
    dense, small = (costs_of(classifier_of(network), example) for network in (original, slim))
    _check_macs(cost.total, dense.macs)
    _check_macs(cost.of_plan(plan), small.macs)
    _check_removed(cost, plan, dense, small)
    return SlimProof(max(outputs.values()), dense, small, outputs)


def costs_of(model: nn.Module, example: Tensor) -> CountedCosts:
    """MACs, parameters and bytes, all counted on the model itself."""
    return CountedCosts(count_macs(model, example).total, count_params(model), size_bytes(model))


@overload
def classifier_of(network: ExplainedClassifier | Classifier) -> Classifier: ...


@overload
def classifier_of(network: nn.Module) -> nn.Module: ...


def classifier_of(network: nn.Module) -> nn.Module:
    """The classifier of a network that may be joined with an explainer."""
    return network.classifier if isinstance(network, ExplainedClassifier) else network


def _scope(network: nn.Module) -> tuple[str, View | None]:
    """Prefix of the layers that may shrink, and the part of the network that a dependency graph is traced from."""
    return (JOINED, network.view) if isinstance(network, ExplainedClassifier) else ("", None)


def _check_removed(cost: CostModel, plan: PrunePlan, dense: CountedCosts, small: CountedCosts) -> None:
    """Compare what surgery removed, as the networks are, with what the plan was chosen for (and held to a budget)."""
    totals, amounts = cost.totals, cost.amounts(plan)
    counted = {
        "params": (dense.params - small.params, "parameters"),
        "size": (dense.size_bytes - small.size_bytes, "bytes"),
    }
    for resource, (removed, unit) in counted.items():
        planned = round(totals[resource] - amounts[resource])
        if planned != removed:
            raise PruningError(
                f"the plan removes {planned} {unit}, and {removed} are gone from the slim model: a budget would not "
                "hold; please report this model"
            )


def _check_macs(claimed: int, counted: int) -> None:
    if claimed != counted:
        raise PruningError(
            f"the cost model ({claimed} MACs) disagrees with fvcore ({counted}): layers that are no modules "
            "(torch.nn.functional with weights of its own) cost something else in a slim model; make them modules"
        )
