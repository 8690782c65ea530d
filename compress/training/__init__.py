"""The training loop of all learning stages, its checkpoints, evaluation, and statistics of batch normalisation."""

from ..progress import Stop
from .batch_norm import (
    StatisticsScores,
    following_statistics,
    keep_better_statistics_,
    recalibrate_bn,
    take_statistics_,
    tracked_norms,
)
from .checkpoint import Checkpoints, Stateful
from .course import History, Validation
from .evaluate import Score, evaluate, logits_of, to_device
from .learning import Learning, LearningFabric, Precision, make_fabric, one_device_fabric
from .loop import fit, one_cycle
from .step import Loss, SharedStep

__all__ = [
    "Checkpoints",
    "History",
    "Learning",
    "LearningFabric",
    "Loss",
    "Precision",
    "Score",
    "SharedStep",
    "Stateful",
    "StatisticsScores",
    "Stop",
    "Validation",
    "evaluate",
    "fit",
    "following_statistics",
    "keep_better_statistics_",
    "logits_of",
    "make_fabric",
    "one_cycle",
    "one_device_fabric",
    "recalibrate_bn",
    "take_statistics_",
    "to_device",
    "tracked_norms",
]
