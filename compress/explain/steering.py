"""Registry of explainers that can steer gates: those that are one forward pass on the classifier's own features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lightning_fabric import Fabric

from ..config import ExplainerConfig
from ..data import BatchSource
from ..errors import ConfigError
from ..registry import Registry
from ..training import History, Learning
from .amortized.heads import Head, RbfHead, RealXHead
from .amortized.learn import Objective, rbf_objective, train_selector
from .amortized.predictor import DrawMasks, Predictor, rbf_masks
from .amortized.quality import Sample, SelectorQuality, judge_selector, refuse_collapsed
from .amortized.rbf import SIGMA_SHARE
from .amortized.realx import pixel_masks, realx_objective, realx_sample
from .amortized.selector import ExplainedClassifier
from .varsal import MapQuality, SelectorMaps, SoftTVPrior, VarSalHead, check_side, judge_maps, refuse_flat, train_maps


class Quality(Protocol):
    """Measured quality of a selector on validation images."""

    def in_words(self) -> str:
        """One line."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""


Q = TypeVar("Q", bound=Quality)


@dataclass(frozen=True)
class SteeringExplainer(ABC, Generic[Q]):
    """An explainer that can steer gates: its head, its training, and the measure of its quality.

    Args:
        head: turns the decoder's maps into explanations.
        masks: draws the masks that its predictor is trained on; None: it needs no predictor.
    """

    head: type[Head]
    masks: Callable[[ExplainerConfig], DrawMasks] | None

    def check(self, config: ExplainerConfig, side: int) -> None:
        """Raise ConfigError or DataError for settings that cannot work on images of this side, in pixels."""

    @abstractmethod
    def batch_size(self, config: ExplainerConfig) -> int:
        """Images per training step."""

    @abstractmethod
    def train(
        self,
        network: ExplainedClassifier,
        predictor: Predictor | None,
        train: BatchSource,
        val: BatchSource,
        learning: Learning,
        *,
        config: ExplainerConfig,
    ) -> History:
        """Train the selector of ``network``, against a trained ``predictor`` if it needs one; both end frozen."""

    @abstractmethod
    def judge(
        self,
        network: ExplainedClassifier,
        predictor: Predictor | None,
        val: BatchSource,
        fabric: Fabric,
        *,
        config: ExplainerConfig,
    ) -> Q:
        """Measure the selector of ``network`` on validation images."""

    @abstractmethod
    def refuse(self, quality: Q, config: ExplainerConfig) -> None:
        """Raise ExplainerRefused for a selector that explains nothing: the silent failure of amortized explainers."""


@dataclass(frozen=True)
class MaskExplainer(SteeringExplainer[SelectorQuality]):
    """Trained at a target area, by a predictor's logits on masked images (ISP, REAL-X).

    Args:
        objective: loss of a selector against a predictor.
        sample: draws the masks for the measure of quality; None: the maps themselves are the masks.
    """

    masks: Callable[[ExplainerConfig], DrawMasks]
    objective: Callable[[Head, Predictor, ExplainerConfig], Objective]
    sample: Callable[[ExplainerConfig], Sample | None]

    def check(self, config: ExplainerConfig, side: int) -> None:
        del side
        if self.head is RbfHead and config.target_area > RBF_MOST_AREA:
            raise ConfigError(
                f"explainer.target_area is {config.target_area:g}: the sigma of radial masks is at most "
                f"{SIGMA_SHARE:g} of the side, so that they cover up to {RBF_MOST_AREA:g} of the image; give at most "
                f"{RBF_MOST_AREA:g}, or explain by realx"
            )

    def batch_size(self, config: ExplainerConfig) -> int:
        return config.selector.batch_size

    def train(
        self,
        network: ExplainedClassifier,
        predictor: Predictor | None,
        train: BatchSource,
        val: BatchSource,
        learning: Learning,
        *,
        config: ExplainerConfig,
    ) -> History:
        assert predictor is not None
        return train_selector(
            network,
            predictor,
            train,
            val,
            learning,
            objective=self.objective(network.selector.head, predictor, config),
            config=config.selector,
            target_area=config.target_area,
            sample=self.sample(config),
        )

    def judge(
        self,
        network: ExplainedClassifier,
        predictor: Predictor | None,
        val: BatchSource,
        fabric: Fabric,
        *,
        config: ExplainerConfig,
    ) -> SelectorQuality:
        assert predictor is not None
        return judge_selector(network, predictor, val, fabric, sample=self.sample(config))

    def refuse(self, quality: SelectorQuality, config: ExplainerConfig) -> None:
        refuse_collapsed(quality, config.target_area, self.head.kind)


@dataclass(frozen=True)
class MapExplainer(SteeringExplainer[MapQuality]):
    """Trained to rank pixels, by the classifier's own logits on images with pixels removed (VarSal)."""

    masks: None = None

    def check(self, config: ExplainerConfig, side: int) -> None:
        check_side(side, side)
        SoftTVPrior(side, side, config.varsal.alpha)

    def batch_size(self, config: ExplainerConfig) -> int:
        return config.varsal.batch_size

    def train(
        self,
        network: ExplainedClassifier,
        predictor: Predictor | None,
        train: BatchSource,
        val: BatchSource,
        learning: Learning,
        *,
        config: ExplainerConfig,
    ) -> History:
        assert predictor is None
        maps = SelectorMaps(network)
        return train_maps(
            maps,
            network.classifier,
            train,
            val,
            learning,
            config=config.varsal,
        )

    def judge(
        self,
        network: ExplainedClassifier,
        predictor: Predictor | None,
        val: BatchSource,
        fabric: Fabric,
        *,
        config: ExplainerConfig,
    ) -> MapQuality:
        assert predictor is None
        del config
        return judge_maps(SelectorMaps(network), network.classifier, val, fabric)

    def refuse(self, quality: MapQuality, config: ExplainerConfig) -> None:
        del config
        refuse_flat(quality)


RBF_MOST_AREA = 0.4
"""Largest target area of radial masks: at the largest sigma one in the image's centre covers 0.46, others less."""

STEERING: Registry[SteeringExplainer[Any]] = Registry("explainer that can steer gates")

STEERING.add(RbfHead.kind)(
    MaskExplainer(
        RbfHead,
        masks=lambda config: rbf_masks(config.masks),
        objective=lambda head, predictor, config: rbf_objective(predictor, head.side, config.selector),
        sample=lambda _: None,
    )
)
STEERING.add(RealXHead.kind)(
    MaskExplainer(
        RealXHead,
        masks=lambda config: pixel_masks(config.realx),
        objective=lambda head, predictor, config: realx_objective(predictor, head, config.realx, config.selector),
        sample=lambda config: realx_sample(config.realx),
    )
)
STEERING.add(VarSalHead.kind)(MapExplainer(VarSalHead))
