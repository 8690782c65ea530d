from collections.abc import Callable

import torch
from torch import nn

from slimsight.compress.data import Batches
from slimsight.compress.dynamic import DynamicClassifier, macs_per_image, measure_usage, routed_cost
from slimsight.compress.macs import count_macs


def by_hand(gates: list[torch.Tensor], masks: int) -> float:
    """Stem and classifier; of each block 3x3 kernels over 4x4 pixels, in and out of the open channels; heads."""
    total = 3 * 8 * 9 * 16 + 8 * 10
    for gate in gates:
        opened = int((gate > 0).sum())
        total += 2 * 8 * opened * 9 * 16 + 8 * masks
    return float(total)


def test_macs_of_every_image_are_what_an_enumeration_counts(
    network: nn.Module, to_dynamic: Callable[..., DynamicClassifier], val: Batches
) -> None:
    model = to_dynamic(network, 8, masks=3)
    with torch.no_grad():
        model.router_list[0].keep[0, :3] = False  # so that masks differ in size
        model.project_()
        images = next(iter(val)).images
        gates = model.routed(images).gates
    cost = routed_cost(model, images[:1])
    found = macs_per_image(cost, gates)
    assert found.tolist() == [by_hand([one[n] for one in gates], 3) for n in range(len(images))]
    assert len(found.unique()) > 1
    heads = 2 * 8 * 3
    assert cost.total == count_macs(network, images[:1]).total + heads


def test_use_counts_over_all_images(
    network: nn.Module, to_dynamic: Callable[..., DynamicClassifier], val: Batches
) -> None:
    model = to_dynamic(network, 8).train()
    found = measure_usage(model, routed_cost(model, torch.rand(1, 3, 8, 8)), val)
    assert model.training
    model.eval()
    hits = [(model(b.images).argmax(1) == b.labels).float() for b in val]
    assert found.accuracy == torch.cat(hits).mean().item()
    assert found.macs.shape == (512,)
    assert found.choices.shape == (512, 2)
    assert found.macs_mean == found.macs.mean().item()
