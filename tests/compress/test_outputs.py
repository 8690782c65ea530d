"""Names of outputs, and several inputs as one tensor."""

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ModelError
from slimsight.compress.inputs import Packing, as_arguments, check_example, first_rows
from slimsight.compress.outputs import name_tensors, plain

Named = namedtuple("Named", "scores rest")


@dataclass
class Output:
    boxes: list[Tensor]
    aux: Any = None


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (torch.ones(1), ["out"]),
        ((torch.ones(1), [torch.ones(1)]), ["out[0]", "out[1][0]"]),
        ({"a": torch.ones(1), 3: torch.ones(1), "b c": torch.ones(1)}, ["out.a", "out[3]", "out['b c']"]),
        (OrderedDict(out=torch.ones(1), aux=None), ["out.out"]),
        (Named(torch.ones(1), {"x": torch.ones(1)}), ["out.scores", "out.rest.x"]),
        (Output([torch.ones(1), torch.ones(2)], 4), ["out.boxes[0]", "out.boxes[1]"]),
        ("text", []),
        ([], []),
    ],
)
def test_every_tensor_of_a_nest_has_a_name(outputs: Any, names: list[str]) -> None:
    assert list(name_tensors(outputs)) == names


def test_only_types_of_ones_own_are_made_plain() -> None:
    known = (torch.ones(1), {"a": torch.ones(1)})
    assert plain(known) is known
    assert list(plain({"deep": [Output([torch.ones(1)])]})) == ["out.deep[0].boxes[0]"]


class Sums(nn.Module):
    def forward(self, images: Tensor, depth: Tensor) -> Tensor:
        return images.sum((1, 2, 3)) + 10 * depth.sum(1)


@pytest.mark.parametrize("keywords", [False, True])
def test_packed_inputs_are_the_inputs(keywords: bool) -> None:
    images, depth = torch.rand(3, 5, 4, 2), torch.rand(3, 7)
    example: Any = {"depth": depth, "images": images} if keywords else (images, depth)
    packing = Packing.of(example)
    packed = packing.pack(example)
    assert packed.shape == (3, 47)
    network = packing.attach_(Sums())
    assert torch.equal(copy.deepcopy(network)(packed[1:]), Sums()(images, depth)[1:])
    args, named = as_arguments(packing.unpack(packed))
    assert list(named) == (["depth", "images"] if keywords else [])
    found = (*args, *named.values())
    assert all(map(torch.equal, found, (depth, images) if keywords else (images, depth)))
    assert torch.equal(packing.detach_(network)(images, depth), Sums()(images, depth))
    rows: Any = first_rows(example, 2)
    assert [len(value) for value in (rows.values() if keywords else rows)] == [2, 2]


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (7, "the example is a int, no torch tensor; give images"),
        (torch.rand(3, 8, 8), r"the example is \(3, 8, 8\) torch.float32; give a few images"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8; give a few images"),
        (
            torch.rand(1, 64, 64, 3),
            r"images of 64 channels, channels last: permute\(0, 3, 1, 2\) them; allowed: 1 to 16",
        ),
        (torch.rand(1, 17, 64, 64), "images of 17 channels; allowed: 1 to 16 channels"),
        ((), "the example is an empty tuple"),
        ((torch.rand(2, 3), 5), "input number 2 of the example is a int"),
        ({"ids": torch.zeros(2, 3, dtype=torch.int64)}, r"input ids of the example is \(2, 3\) torch.int64; .* wraps"),
        ((torch.rand(2, 3), torch.rand(3, 3)), "input number 2 of the example has 3 rows and the first one 2"),
    ],
)
def test_what_is_no_example_is_said_in_one_sentence(example: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        check_example(example)
    assert "\n" not in str(caught.value)
