import pytest

from slimsight.compress.data import Flow


def told(waiting: float, moving: float, computing: float) -> Flow:
    now = 0.0
    flow = Flow(workers=2, images=1000, clock=lambda: now)
    flow.lap("computing")
    for part, seconds in (("waiting", waiting), ("moving", moving), ("computing", computing)):
        now += seconds
        flow.lap(part)  # type: ignore[arg-type]
    return flow


@pytest.mark.parametrize(
    ("seconds", "limit", "words"),
    [
        (
            (7.1, 0, 2.9),
            "decode",
            "limited by decode: 71 % of the time waiting for images (100 images/s with data.workers 2); more",
        ),
        ((0.5, 3, 6.5), "transfer", "limited by transfer: 30 % of the time moving images to the device (100 images/s)"),
        ((0.3, 0.1, 9.6), "compute", "limited by compute: 3 % of the time waiting for images (100 images/s)"),
    ],
)
def test_what_is_waited_for_is_what_limits(seconds: tuple[float, float, float], limit: str, words: str) -> None:
    flow = told(*seconds)
    assert flow.total == pytest.approx(10)
    assert flow.limit == limit
    assert flow.in_words().startswith(words)
    assert flow.to_metrics()["reading"]["waiting"] == pytest.approx(seconds[0] / 10)


def test_nothing_read_says_nothing() -> None:
    assert Flow().to_metrics() == {}
