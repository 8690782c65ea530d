"""Proofs of channel groups, kept in a folder: what was proven once is not proven again by the next command."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import Damaged, RunError
from ..files.sealed import read_sealed, write_sealed
from ..modes import one_thread
from ..progress import SILENT, Progress
from .groups import ChannelGraph, View
from .side import record_operators
from .verify import UNPROVEN, prove_groups

METHOD = 2
"""Number of the method of proof; a change of ``prove_groups`` that can change what it finds raises it."""

_DRAWN_ANEW = (_ConvNd, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


@one_thread()
def proof_key(
    network: nn.Module,
    graph: ChannelGraph,
    images: Tensor,
    *,
    prefix: str = "",
    view: View | None = None,
    seed: int = 0,
) -> str:
    """Digest of all that decides what ``prove_groups`` finds.

    That is what the network computes (every operator with its arguments and the tensors that it reads), its modules,
    the graph, the shape of the images, and the versions of torch and Torch-Pruning. Weights of convolutions, linear
    layers and batch normalisations are not in it, as the proof draws them anew (``shake_``); only whether they are
    finite is. Other tensors are in it with their values.
    """
    digest = hashlib.sha256()
    facts = [METHOD, torch.__version__, torch_pruning.__version__, prefix, getattr(view, "__qualname__", None), seed]
    for part in (*facts, tuple(images.shape), images.dtype, graph):
        digest.update(f"{part!r}\n".encode())
    drawn: set[int] = set()
    for name, module in network.named_modules():
        digest.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {module.extra_repr()}\n".encode())
        if isinstance(module, _DRAWN_ANEW):
            drawn.update(map(id, (*module.parameters(recurse=False), *module.buffers(recurse=False))))
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        known = bool(torch.isfinite(value).all()) if id(value) in drawn else _digest_of(value)
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {known}\n".encode())
    for operator in record_operators(network, images[:1], gradients=True):
        digest.update(f"{operator!r}\n".encode())
    return digest.hexdigest()


def _digest_of(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class ProofCache:
    """Proofs in the files of ``folder``, one a network and image size; they are written atomically."""

    folder: Path

    def prove_groups(
        self,
        network: nn.Module,
        graph: ChannelGraph,
        images: Tensor,
        *,
        prefix: str = "",
        view: View | None = None,
        seed: int = 0,
        progress: Progress = SILENT,
        **options: Any,
    ) -> ChannelGraph:
        """``prove_groups``, or what it found when it was called for the same (``proof_key``).

        A proof that ran out of time is not kept. A file that is damaged, or that cannot be read or written, is noted
        and the groups are proven anew.
        """
        if not graph.groups:
            return graph
        path = self.folder / f"{proof_key(network, graph, images, prefix=prefix, view=view, seed=seed)}.json"
        reasons = self._read(path, graph, progress)
        if reasons is not None:
            for name, reason in reasons.items():
                progress.note(f"group '{name}' is frozen: {reason}")
            return graph.without(reasons)
        options |= {"prefix": prefix, "view": view, "seed": seed, "progress": progress}
        proven = prove_groups(network, graph, images, **options)
        reasons = {group.name: group.reason for group in proven.frozen[len(graph.frozen) :]}
        if not any(reason.startswith(UNPROVEN) for reason in reasons.values()):
            try:
                write_sealed(path, {"frozen": reasons})
            except (RunError, OSError) as error:
                progress.note(f"the proof of the channel groups could not be kept: {error}")
        return proven

    def _read(self, path: Path, graph: ChannelGraph, progress: Progress) -> dict[str, str] | None:
        try:
            reasons = read_sealed(path)["frozen"]
            names = {group.name for group in graph.groups}
            if isinstance(reasons, dict) and names.issuperset(reasons):
                return {str(name): str(reason) for name, reason in reasons.items()}
        except FileNotFoundError:
            return None
        except (Damaged, OSError, LookupError, ValueError) as error:
            progress.note(f"a kept proof of channel groups is not used, they are proven anew: {error}")
            return None
        progress.note(f"a kept proof of channel groups is not used, they are proven anew: {path} is of other groups")
        return None
