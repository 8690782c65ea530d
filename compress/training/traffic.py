"""What goes between processes while they learn, counted.

No ``from __future__ import annotations`` here: DDP reads the hook's annotations, which must not be strings.
"""

import torch
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch makes it public only where built so
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


class Traffic:
    """Bytes of gradients that this process gives to be averaged with those of the others, since it was last reset."""

    def __init__(self) -> None:
        self.bytes = 0

    def count(self, model: DistributedDataParallel) -> None:
        """From now on count what ``model`` sends: all that its backward passes do."""
        model.register_comm_hook(self, _counted)


def _counted(traffic: Traffic, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    traffic.bytes += bucket.buffer().nbytes
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: the group of all processes
