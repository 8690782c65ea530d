"""How far a slim model's explanations moved from the original's."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..data import BatchSource
from ..progress import SILENT, Progress
from ..training import to_device
from .rbf import rbf_map
from .selector import ExplainedClassifier


@dataclass(frozen=True)
class Drift:
    """Means over images: distance of centres and of sigmas (pixels), overlap of the maps (soft IoU, 0..1)."""

    center_drift_px: float
    sigma_drift_px: float
    iou: float
    images: int

    def to_dict(self) -> dict[str, float | int]:
        """JSON form."""
        return asdict(self)


@torch.inference_mode()
def explanations(network: ExplainedClassifier, batches: BatchSource, *, progress: Progress = SILENT) -> Tensor:
    """(N, 3) RBF parameters in pixels for the true labels, over one pass; in float32 and eval mode."""
    network.eval()
    device = next(network.parameters()).device
    found = []
    passes = progress.track(batches.epoch(0), "explanations", total=len(batches), unit="img", scale=batches.batch_size)
    for batch in passes:
        batch = to_device(batch, device)
        found.append(network(batch.images, batch.labels)[1].float().cpu())
    return torch.cat(found)


def drift_between(original: Tensor, slim: Tensor, side: int) -> Drift:
    """Drift between two sets of RBF parameters (N, 3) for the same images; IoU = sum of minima / sum of maxima."""
    centres = (original[:, :2] - slim[:, :2]).norm(dim=1).mean()
    sigmas = (original[:, 2] - slim[:, 2]).abs().mean()
    overlaps = []
    for ours, theirs in zip(torch.split(slim, 512), torch.split(original, 512), strict=True):
        a, b = rbf_map(ours, side).flatten(1), rbf_map(theirs, side).flatten(1)
        overlaps.append(torch.minimum(a, b).sum(1) / torch.maximum(a, b).sum(1).clamp_min(1e-12))
    return Drift(float(centres), float(sigmas), float(torch.cat(overlaps).mean()), len(original))
