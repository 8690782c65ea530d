from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.models import check_logits
from slimsight.compress.models.user_code import UserCode


def test_names_what_was_done_and_where() -> None:
    with (
        pytest.raises(ModelError, match=r"^building failed: ValueError: two lines \(.*test_user_code\.py, line \d+\)$"),
        UserCode("building failed"),
    ):
        raise ValueError("two\n   lines")


def test_an_exit_is_an_error_too() -> None:
    with pytest.raises(ModelError, match=r"importing failed: SystemExit: 3 \("), UserCode("importing failed"):
        sys.exit(3)


@pytest.mark.parametrize("error", [ConfigError("ours"), KeyboardInterrupt()])
def test_our_errors_and_interrupts_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, UserCode("x"):
        raise error
    assert caught.value is error


def test_silent_when_all_is_well() -> None:
    with UserCode("x"):
        value = 1
    assert value == 1


def test_lines_inside_torch_are_not_the_place() -> None:
    with pytest.raises(ModelError, match=r"\(.*test_user_code\.py, line \d+\)$"), UserCode("x"):
        nn.Linear(2, 2)(torch.zeros(1, 3))


def test_an_import_that_fails_inside_forward_is_not_blamed_on_the_images() -> None:
    class Lazy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            import no_such_neighbour  # type: ignore[import-not-found]

            return no_such_neighbour.head(images)  # type: ignore[no-any-return]

    with pytest.raises(
        ModelError, match=r"^the model imports while it runs: ModuleNotFoundError: .*top of the model's"
    ):
        check_logits(Lazy(), torch.rand(2, 3, 8, 8))
