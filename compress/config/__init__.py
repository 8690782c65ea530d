"""Recipe sections of compression: frozen, validated on construction, unknown keys refused."""

from .base import BatchSize, Count, Epochs, Fraction, Images, NonNegative, Positive, Section, Share, Side, Threads
from .budget import BudgetConfig, LatencyLimit, MacsLimit, ParamsLimit, SizeLimit
from .classifier import ON_BACKBONE, DataConfig, FinetuneConfig, Interpolation, ModelConfig, TrainConfig
from .dynamic import DynamicConfig
from .explainer import ExplainerConfig, MaskConfig, PredictorConfig, RealXConfig, SelectorConfig, VarSalConfig
from .gates import RANKINGS, GatesConfig, Steer

__all__ = [
    "ON_BACKBONE",
    "RANKINGS",
    "BatchSize",
    "BudgetConfig",
    "Count",
    "DataConfig",
    "DynamicConfig",
    "Epochs",
    "ExplainerConfig",
    "FinetuneConfig",
    "Fraction",
    "GatesConfig",
    "Images",
    "Interpolation",
    "LatencyLimit",
    "MacsLimit",
    "MaskConfig",
    "ModelConfig",
    "NonNegative",
    "ParamsLimit",
    "Positive",
    "PredictorConfig",
    "RealXConfig",
    "Section",
    "SelectorConfig",
    "Share",
    "Side",
    "SizeLimit",
    "Steer",
    "Threads",
    "TrainConfig",
    "VarSalConfig",
]
