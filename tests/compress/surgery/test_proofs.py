"""Kept proofs: found again for the same architecture whatever it has learned, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.progress import Silent
from slimsight.compress.surgery import ChannelGraph, ProofCache, proof_key, proofs, prove_groups, trace_groups

IMAGES = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """``reverses``: the channels of ``a`` are reversed on the way, so that its group is frozen by the proof."""

    def __init__(self, *, reverses: bool = False, detaches: bool = False, counts: bool = False) -> None:
        super().__init__()
        self.reverses, self.detaches, self.counts = reverses, detaches, counts
        self.a, self.norm, self.b = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.act, self.head = nn.PReLU(4), nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(1, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.a(images)).relu()
        if self.counts and maps.shape[1] < 6:  # no trace of all channels shows it: only a proof does
            maps = 2 * maps
        maps = self.act(self.b(maps.flip(1) if self.reverses else maps)) * self.scale
        if self.detaches:
            with torch.no_grad():
                maps = maps.relu()
        else:
            maps = maps.relu()
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def key_of(network: nn.Module, images: Tensor = IMAGES) -> str:
    network = network.eval()
    return proof_key(network, trace_groups(network, images[:1]), images)


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[ChannelGraph]:
    """The graphs that were proven, not looked up."""
    calls: list[ChannelGraph] = []

    def counted(network: nn.Module, graph: ChannelGraph, *args: object, **options: object) -> ChannelGraph:
        calls.append(graph)
        return prove_groups(network, graph, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(proofs, "prove_groups", counted)
    return calls


def test_the_key_does_not_change_with_what_is_learned() -> None:
    torch.manual_seed(0)
    network = Net()
    before = key_of(network)
    assert key_of(Net()) == before  # other random weights
    network.train()(IMAGES).sum().backward()
    torch.optim.SGD([*network.a.parameters(), *network.norm.parameters()], lr=1.0).step()
    assert key_of(network) == before


def changed(change: Callable[[Net], object]) -> Net:
    torch.manual_seed(0)
    network = Net()
    with torch.no_grad():
        change(network)
    return network


@pytest.mark.parametrize(
    "other",
    [
        Net(reverses=True),
        Net(detaches=True),
        changed(lambda net: setattr(net, "b", nn.Conv2d(6, 4, 3, padding=1))),
        changed(lambda net: setattr(net, "b", nn.Conv2d(6, 4, 3, bias=False))),
        changed(lambda net: net.scale.fill_(2)),
        changed(lambda net: net.act.weight.fill_(0)),
        changed(lambda net: net.head.bias.fill_(float("nan"))),
    ],
    ids=["order", "autograd", "padding", "bias", "buffer", "slopes", "nan"],
)
def test_the_key_changes_with_what_decides(other: Net) -> None:
    assert key_of(other) != key_of(Net())


def test_the_key_changes_with_image_size_method_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key_of(Net()), key_of(Net(), IMAGES[..., :10]), key_of(Net(), IMAGES[:1])]
    for module, name, value in ((proofs, "METHOD", 0), (proofs.torch_pruning, "__version__", "0")):
        monkeypatch.setattr(module, name, value)
        keys.append(key_of(Net()))
    assert len(set(keys)) == 5


@pytest.mark.parametrize("counts", [False, True])
def test_a_kept_proof_finds_what_the_proof_found(tmp_path: Path, proven: list[ChannelGraph], counts: bool) -> None:
    cache, said = ProofCache(tmp_path / "proofs"), []
    for _ in range(2):
        network, notes = Net(counts=counts).eval(), Notes()
        graph = trace_groups(network, IMAGES[:1])
        found = cache.prove_groups(network, graph, IMAGES, progress=notes)
        said.append((found, [note for note in notes.notes if "is frozen" in note]))
    (first, first_said), (second, second_said) = said
    assert len(proven) == 1
    assert [group.name for group in first.groups] == (["b"] if counts else ["a", "b"])
    assert second == first
    assert second_said == first_said
    assert len(first_said) == (1 if counts else 0)


def test_a_damaged_proof_is_noted_and_made_anew(tmp_path: Path, proven: list[ChannelGraph]) -> None:
    cache, network = ProofCache(tmp_path), Net().eval()
    graph = trace_groups(network, IMAGES[:1])
    cache.prove_groups(network, graph, IMAGES)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for number, damaged in enumerate((whole[:-9], b"", whole.replace(b"frozen", b"frozem")), 2):
        file.write_bytes(damaged)
        notes = Notes()
        assert cache.prove_groups(network, graph, IMAGES, progress=notes) == graph
        assert [note for note in notes.notes if "is not used, they are proven anew" in note]
        assert len(proven) == number
        assert file.read_bytes() == whole


def test_what_could_not_be_proven_in_time_is_tried_again(tmp_path: Path, proven: list[ChannelGraph]) -> None:
    cache, network = ProofCache(tmp_path), Net(counts=True).eval()
    graph = trace_groups(network, IMAGES[:1])
    assert not cache.prove_groups(network, graph, IMAGES, limit=0).groups
    assert not list(tmp_path.iterdir())
    assert [group.name for group in cache.prove_groups(network, graph, IMAGES).groups] == ["b"]
    assert len(proven) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_proof(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    network, notes = Net().eval(), Notes()
    graph = trace_groups(network, IMAGES[:1])
    assert ProofCache(place).prove_groups(network, graph, IMAGES, progress=notes) == graph
    assert any("could not be kept" in note for note in notes.notes)
