"""Amortized explanations: where in an image the classifier's evidence lies, in one forward pass."""

from .amortized import AmortizedExplainer, RbfExplainer, RealXExplainer
from .base import Explainer, Saliency
from .drift import Drift, drift_between, drift_of, explanations
from .heads import Head, RbfHead, RealXHead
from .learn import train_selector
from .predictor import Predictor, new_predictor, rbf_masks, train_predictor
from .pyramid import Capture, Scale, find_scales
from .quality import SelectorQuality, judge_selector, refuse_collapsed
from .rbf import REFERENCE_SIDE, rbf_map
from .realx import judge_realx, pixel_masks, train_realx
from .selector import ExplainedClassifier, Selector
from .steering import STEERING, SteeringExplainer
from .targets import Targets, find_targets, squared_distance, to_targets

__all__ = [
    "REFERENCE_SIDE",
    "STEERING",
    "AmortizedExplainer",
    "Capture",
    "Drift",
    "ExplainedClassifier",
    "Explainer",
    "Head",
    "Predictor",
    "RbfExplainer",
    "RbfHead",
    "RealXExplainer",
    "RealXHead",
    "Saliency",
    "Scale",
    "Selector",
    "SelectorQuality",
    "SteeringExplainer",
    "Targets",
    "drift_between",
    "drift_of",
    "explanations",
    "find_scales",
    "find_targets",
    "judge_realx",
    "judge_selector",
    "new_predictor",
    "pixel_masks",
    "rbf_map",
    "rbf_masks",
    "refuse_collapsed",
    "squared_distance",
    "to_targets",
    "train_predictor",
    "train_realx",
    "train_selector",
]
