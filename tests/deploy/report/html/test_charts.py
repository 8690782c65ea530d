import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimsight.deploy.report.html.charts import LETTER, Bar, Point, Series, bars, in_columns, lines, scatter
from slimsight.deploy.report.html.svg import WIDTH, AxisScale, fitted, tag
from slimsight.deploy.report.shares import wilson


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 8))
def test_ticks_are_few_round_and_within(low: float, width: float, most: int) -> None:
    high = low + width
    ticks = AxisScale(low, high, 0, 1).ticks(most)
    room = 1e-6 * max(abs(low), abs(high))
    assert len(ticks) <= most + 1
    assert all(low - room <= tick <= high + room for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 100, False, [0, 20, 40, 60, 80, 100]),
        (0.982, 1.0, False, [0.985, 0.99, 0.995, 1.0]),
        (3e-7, 2e-4, True, [1e-6, 1e-5, 1e-4]),
        (5, 5, False, [5]),
    ],
)
def test_ticks_of_known_axes(low: float, high: float, log: bool, ticks: list[float]) -> None:
    assert AxisScale(low, high, 0, 1, log).ticks(5) == pytest.approx(ticks)


def test_an_axis_as_narrow_as_rounding_has_no_tick_twice() -> None:
    low = 360287971.0
    ticks = AxisScale(low, low + 6e-8, 0, 1).ticks(3)
    assert len(ticks) == len(set(ticks)) <= 3


def test_scales_stay_within_their_ends() -> None:
    scale = AxisScale(1e-6, 1e-2, 10, 50, log=True)
    assert [scale(value) for value in (1e-9, 1e-6, 1e-4, 1e-2, 1)] == pytest.approx([10, 10, 30, 50, 50])


def test_text_and_values_are_escaped() -> None:
    assert tag("text", "<b>&", class_='"x"', text_anchor=None) == '<text class="&#34;x&#34;">&lt;b&gt;&amp;</text>'
    assert "<script>" not in bars("b", "<script>", [Bar("<script>", 0.5, "<script>")])


def test_a_bar_is_as_long_as_its_share() -> None:
    drawn = bars("b", "title", [Bar("half", 0.5, "8 of 16"), Bar("too much", 1.7, "17 of 10")])
    found = re.findall(r'width="([\d.]+)" height="10" rx="2" class="(track|fill slim)"', drawn)
    assert [(float(width), kind) for width, kind in found] == [
        (WIDTH, "track"), (WIDTH / 2, "fill slim"), (WIDTH, "track"), (WIDTH, "fill slim"),
    ]  # fmt: skip
    assert "half: 8 of 16; too much: 17 of 10." in drawn


@pytest.mark.parametrize(("rows", "sizes"), [(1, [1]), (12, [12]), (13, [7, 6]), (40, [10, 10, 10, 10])])
def test_many_bars_are_shared_out_evenly(rows: int, sizes: list[int]) -> None:
    charts = in_columns("c", "t", [Bar(str(k), 0.1, "") for k in range(rows)])
    assert [chart.count('class="track"') for chart in charts] == sizes


def test_a_line_is_cut_where_the_axis_ends() -> None:
    def plain(value: float) -> str:
        return f"{value:g}"

    series = [Series("s", "slim", [0, 10, 30], [0.0, 1.0, 3.0])]
    drawn = lines("l", "t", "d", series, x_name="x", y_name="y", x_text=plain, y_text=plain,
                  x_range=(0, 20), y_range=(0, 4))  # fmt: skip
    (d,) = re.findall(r' d="([^"]+)"', drawn)
    points = [tuple(map(float, point.split())) for point in d[1:].split("L")]
    assert len(points) == 3
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.02)  # 10 and 10 of 20
    assert y2 - y1 == pytest.approx(y1 - y0, abs=0.02)  # up to 2, not to 3


def test_marks_in_the_same_place_are_drawn_beside_each_other() -> None:
    points = [Point(name, 20, 0.9, "run-1", inside=name) for name in "ABC"]
    drawn = scatter("s", "t", points, x_name="x", y_name="y", x_text=str, y_text=str)
    centres = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert [round(b - a) for a, b in itertools.pairwise(centres)] == [18, 18]


def test_long_names_keep_their_ends() -> None:
    assert fitted("short", 200) == "short"
    name = fitted("net.layer4.2.a_very_long_name_indeed.conv2", 140)
    assert len(name) == 20
    assert name.startswith("net.la")
    assert name.endswith("indeed.conv2")


def test_intervals_of_shares_are_wilsons() -> None:
    # Brown, Cai and DasGupta 2001: for x = 0 the interval is 0 to z^2 / (n + z^2).
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = wilson(1.0, 359)
    assert (low, high) == pytest.approx((0.9894, 1.0), abs=1e-4)


@pytest.mark.parametrize("x", [0.5, 0.6, 0.75])
def test_no_name_is_written_over_another_mark(x: float) -> None:
    points = [Point("original", 0.75, 0.99, "original"), Point("slim", x, 0.99, "slim")]
    drawn = str(scatter("s", "t", points, x_name="x", y_name="y", x_text=str, y_text=str))
    circles = [tuple(map(float, found)) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert len(circles) == 2
    names = re.findall(r"<text ([^>]*)>(slim|original)</text>", drawn)
    assert len(names) == 2
    for attributes, name in names:
        at, line = (float(re.search(rf'\b{key}="([\d.]+)"', attributes).group(1)) for key in ("x", "y"))
        width = LETTER * len(name)
        start = at - width if 'text-anchor="end"' in attributes else at
        for cx, cy in circles:
            assert not (start < cx + 5 and cx - 5 < start + width and abs(line - 4 - cy) < 12), (name, drawn)
