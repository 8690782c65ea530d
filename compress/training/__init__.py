"""Learning: the one loop that every stage runs through, its checkpoints, and how classifiers are evaluated."""

from ..stop import Stop
from .checkpoint import Checkpoints, Stateful
from .course import History
from .evaluate import Score, evaluate, logits_of, to_device
from .loop import Loss, Precision, fit, make_fabric, one_cycle

__all__ = [
    "Checkpoints",
    "History",
    "Loss",
    "Precision",
    "Score",
    "Stateful",
    "Stop",
    "evaluate",
    "fit",
    "logits_of",
    "make_fabric",
    "one_cycle",
    "to_device",
]
