"""The training loop used by all learning stages, its checkpoints, and the evaluation of classifiers."""

from ..progress import Stop
from .checkpoint import Checkpoints, Stateful
from .course import History
from .evaluate import Score, evaluate, logits_of, to_device
from .learning import Learning, LearningFabric, Precision, make_fabric
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
    "Stop",
    "evaluate",
    "fit",
    "logits_of",
    "make_fabric",
    "one_cycle",
    "to_device",
]
