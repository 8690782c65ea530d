import pytest

from slimsight.compress.gates.history import MAX_POINTS, GateHistory


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
        figures = {"macs": 1.0, "ce": float(step), "residual": 0.0, "steer": 2.0}
        history.add(step, figures, 0.5, last=step + 1 == steps)
    columns = history.columns
    assert len(columns["step"]) <= MAX_POINTS
    assert columns["step"][-1] == steps
    starts = [0, *columns["step"][:-1]]
    means = [(start + end - 1) / 2 for start, end in zip(starts, columns["step"], strict=True)]
    assert columns["ce"] == pytest.approx(means, rel=1e-4)
    assert set(columns["steer"]) == {2.0}


def test_an_extension_goes_on_where_the_course_ended() -> None:
    """Planned for 100 steps, so two to a point; the 15 steps beyond end in a point of one."""
    history = GateHistory(100)
    for step in range(115):
        history.add(step, {"ce": float(step)}, 0.5, last=step + 1 in (99, 115))
    assert history.columns["step"][-10:] == [98, 99, 101, 103, 105, 107, 109, 111, 113, 115]
    assert history.columns["ce"][-3:] == [109.5, 111.5, 113.5]
    saved = GateHistory(100)
    history.add(115, {"ce": 115.0}, 0.5)
    saved.load_state_dict(history.state_dict())
    saved.add(116, {"ce": 116.0}, 0.5)
    assert (saved.columns["step"][-1], saved.columns["ce"][-1]) == (117, 115.5)
