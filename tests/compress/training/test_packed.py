"""A file that holds a tree of tensors and values, and knows when it is not whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimsight.compress.errors import Damaged
from slimsight.compress.training.checkpoint import read_packed, write_packed

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(trees)
def test_plain_values_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("packed") / "value"
    write_packed(path, value)
    found = read_packed(path)
    assert found == value
    assert repr(found) == repr(value)  # 1 is not True, and (1,) not [1]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.tensor(math.nan),
        torch.zeros(0, 3),
        torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(3, 4).T,
        torch.randn(5).bfloat16(),
        torch.randn(5).double(),
        torch.tensor([True, False]),
        torch.arange(5, dtype=torch.uint8),
        torch.randn(1).expand(3),
    ],
    ids=lambda t: f"{t.dtype} {tuple(t.shape)}",
)
def test_tensors_come_back_bit_for_bit_and_in_their_layout(tensor: Tensor, tmp_path: Path) -> None:
    write_packed(tmp_path / "value", {"a": [tensor]})
    found = read_packed(tmp_path / "value")["a"][0]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found.nan_to_num(), tensor.nan_to_num())
    if 0 not in tensor.stride():
        assert found.stride() == tensor.stride()


def test_a_tensor_with_two_names_is_stored_once(tmp_path: Path) -> None:
    tensor = torch.randn(10_000)
    once = write_packed(tmp_path / "once", {"a": tensor})
    assert write_packed(tmp_path / "twice", {"a": tensor, "b": tensor}) < 1.02 * once
    found = read_packed(tmp_path / "twice")
    assert torch.equal(found["b"], tensor)
    found["a"].zero_()
    assert torch.equal(found["b"], tensor)  # no longer tied


def test_any_byte_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write_packed(path, {"w": torch.randn(2, 2), "step": 7, 0: torch.arange(3)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            read_packed(path)
        path.write_bytes(whole[:place])
        with pytest.raises(Damaged):
            read_packed(path)


def test_what_is_absent_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_packed(tmp_path / "value")


def test_what_it_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^model/extra is a set$"):
        write_packed(tmp_path / "value", {"model": {"extra": {1, 2}}})
    assert not list(tmp_path.iterdir())
