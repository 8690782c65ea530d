"""VarSal: variational saliency maps, with an uncertainty per pixel, learned under a soft-TV prior."""

from .encoder import Encoder
from .explainer import VarSal
from .judge import MapQuality, judge_maps, refuse_flat
from .learn import train_maps
from .objective import VarSalObjective
from .prior import SoftTVPrior
from .topk import soft_top_k

__all__ = [
    "Encoder",
    "MapQuality",
    "SoftTVPrior",
    "VarSal",
    "VarSalObjective",
    "judge_maps",
    "refuse_flat",
    "soft_top_k",
    "train_maps",
]
