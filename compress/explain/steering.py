"""Explainers that are one forward pass on the classifier's own features: only they can steer gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lightning_fabric import Fabric

from ..config import ExplainerConfig
from ..data import BatchSource
from ..progress import SILENT, Progress
from ..registry import Registry
from ..training import History
from .heads import Head, RbfHead, RealXHead
from .learn import train_selector
from .predictor import DrawMasks, Predictor, rbf_masks
from .quality import SelectorQuality, judge_selector
from .realx import judge_realx, pixel_masks, train_realx
from .selector import ExplainedClassifier


class Train(Protocol):
    """Trains the selector of ``network`` against a trained ``predictor``; both end frozen, in eval mode."""

    def __call__(
        self,
        network: ExplainedClassifier,
        predictor: Predictor,
        train: BatchSource,
        val: BatchSource,
        fabric: Fabric,
        *,
        config: ExplainerConfig,
        progress: Progress = SILENT,
    ) -> History: ...


class Judge(Protocol):
    """Measures the selector of ``network`` on validation images."""

    def __call__(
        self,
        network: ExplainedClassifier,
        predictor: Predictor,
        val: BatchSource,
        fabric: Fabric,
        *,
        config: ExplainerConfig,
    ) -> SelectorQuality: ...


@dataclass(frozen=True)
class SteeringExplainer:
    """What makes an explainer that can steer: the head it speaks with, what its predictor sees, how it learns."""

    head: type[Head]
    masks: Callable[[ExplainerConfig], DrawMasks]
    train: Train
    judge: Judge


STEERING: Registry[SteeringExplainer] = Registry("explainer that can steer gates")


def _train_rbf(
    network: ExplainedClassifier,
    predictor: Predictor,
    train: BatchSource,
    val: BatchSource,
    fabric: Fabric,
    *,
    config: ExplainerConfig,
    progress: Progress = SILENT,
) -> History:
    return train_selector(
        network,
        predictor,
        train,
        val,
        fabric,
        config=config.selector,
        target_area=config.target_area,
        progress=progress,
    )


def _judge_rbf(
    network: ExplainedClassifier, predictor: Predictor, val: BatchSource, fabric: Fabric, *, config: ExplainerConfig
) -> SelectorQuality:
    del config
    return judge_selector(network, predictor, val, fabric)


def _train_realx(
    network: ExplainedClassifier,
    predictor: Predictor,
    train: BatchSource,
    val: BatchSource,
    fabric: Fabric,
    *,
    config: ExplainerConfig,
    progress: Progress = SILENT,
) -> History:
    return train_realx(
        network,
        predictor,
        train,
        val,
        fabric,
        realx=config.realx,
        config=config.selector,
        target_area=config.target_area,
        progress=progress,
    )


def _judge_realx(
    network: ExplainedClassifier, predictor: Predictor, val: BatchSource, fabric: Fabric, *, config: ExplainerConfig
) -> SelectorQuality:
    return judge_realx(network, predictor, val, fabric, realx=config.realx)


for _explainer in (
    SteeringExplainer(RbfHead, lambda config: rbf_masks(config.masks), _train_rbf, _judge_rbf),
    SteeringExplainer(RealXHead, lambda config: pixel_masks(config.realx), _train_realx, _judge_realx),
):
    STEERING.add(_explainer.head.kind)(_explainer)
