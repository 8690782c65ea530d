"""Columns of report.json that are drawn as lines: their points stand in order."""

import pytest
from pydantic import ValidationError

from slimsight.deploy.report.parts import GateHistoryFigures, PercentilesMs

ONES = (1.0, 1.0, 1.0)


@pytest.mark.parametrize("steps", [(1, 1, 2), (3, 2, 4)])
def test_steps_rise(steps: tuple[int, ...]) -> None:
    columns = {"macs": ONES, "target": ONES, "ce": ONES, "residual": ONES}
    assert GateHistoryFigures(step=(1, 2, 5), **columns).step == (1, 2, 5)
    with pytest.raises(ValidationError, match="steps that do not rise"):
        GateHistoryFigures(step=steps, **columns)


@pytest.mark.parametrize("column", ["percent", "original", "slim", "dynamic"])
def test_percentiles_rise_or_stay(column: str) -> None:
    columns = {"percent": (0, 50, 100), "original": (0.5, 0.5, 0.9), "slim": ONES, "dynamic": ONES}
    assert PercentilesMs.model_validate(columns).original == (0.5, 0.5, 0.9)
    assert PercentilesMs.model_validate({**columns, "dynamic": None}).dynamic is None
    with pytest.raises(ValidationError, match=f"'{column}' falls"):
        PercentilesMs.model_validate({**columns, column: (4, 0.8, 1.3)})


def test_columns_have_one_value_a_point() -> None:
    with pytest.raises(ValidationError, match=r"columns of \[2, 3\] points"):
        GateHistoryFigures(step=(1, 2, 3), macs=ONES, target=ONES, ce=(1.0, 2.0), residual=ONES)
    with pytest.raises(ValidationError, match=r"3 percentiles with times of \[2, 3\]"):
        PercentilesMs(percent=(0, 50, 100), original=ONES, slim=(1.0, 2.0))
