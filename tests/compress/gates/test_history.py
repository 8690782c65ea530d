import pytest

from slimsight.compress.gates.learn import MAX_POINTS, GateHistory


def test_a_short_course_is_kept_step_by_step() -> None:
    history = GateHistory(3)
    for step in range(3):
        history.add(step, {"loss": 9.0, "macs": 1 - step / 10, "ce": 2.0 - step, "residual": 0.5}, 0.9 - step / 10)
    assert history.columns == {
        "step": [1, 2, 3],
        "target": [0.9, 0.8, 0.7],
        "macs": [1.0, 0.9, 0.8],
        "ce": [2.0, 1.0, 0.0],
        "residual": [0.5, 0.5, 0.5],
    }


@pytest.mark.parametrize("steps", [59, 60, 61, 1000, 1001])
def test_points_are_means_and_the_last_one_ends_with_the_course(steps: int) -> None:
    history = GateHistory(steps)
    for step in range(steps):
        history.add(step, {"macs": 1.0, "ce": float(step), "residual": 0.0, "steer": 2.0}, 0.5)
    columns = history.columns
    assert len(columns["step"]) <= MAX_POINTS
    assert columns["step"][-1] == steps
    starts = [0, *columns["step"][:-1]]
    means = [(start + end - 1) / 2 for start, end in zip(starts, columns["step"], strict=True)]
    assert columns["ce"] == pytest.approx(means, rel=1e-4)
    assert set(columns["steer"]) == {2.0}
