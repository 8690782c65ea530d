"""Charts of how gates learned, of a run or of several."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ..series import GateHistoryFigures
from .charts import Series, lines


def gate_charts(
    runs: Sequence[tuple[str, str, GateHistoryFigures]], *, alone: bool = False
) -> list[tuple[str, Markup]]:
    """How gates learned, of runs (name, colour, history): cost against its target, cross entropy, steering.

    ``alone``: the page is about one run, whose name need not be said.
    """

    def percent(value: float) -> str:
        return f"{100 * value:.0f} %"

    def plain(value: float) -> str:
        return f"{value:.3g}"

    def count(value: float) -> str:
        return f"{value:,.0f}"

    cost = [Series("relaxed gates" if alone else name, colour, h.step, h.macs) for name, colour, h in runs]
    targets = [Series("target", "target", h.step, h.target, dashed=True) for _, _, h in runs]
    costs = "; ".join(f"{name}: from {percent(h.macs[0])} to {percent(h.macs[-1])}" for name, _, h in runs)
    title = "MACs under the gates, and their target"
    charts = [
        (
            title,
            lines(
                "gates-macs",
                title,
                f"Share of the original's MACs over the steps. {costs}.",
                [*cost, *(targets if alone else targets[:1])],
                x_name="step",
                y_name="share of the original's MACs",
                x_text=count,
                y_text=percent,
                y_range=(0.0, 1.02 * max(max(*h.macs, *h.target) for _, _, h in runs)),
            ),
        )
    ]
    curves = [("gates-ce", "Cross entropy while gates learn", "cross entropy, nats", "ce")]
    curves.append(
        ("gates-steer", "Distance of the explanations while gates learn", "distance of explanations", "steer")
    )
    for key, title, y_name, column in curves:
        found = [(name, colour, h.step, ys) for name, colour, h in runs if (ys := getattr(h, column)) is not None]
        if not found:
            continue
        said = "; ".join(f"{name}: from {plain(ys[0])} to {plain(ys[-1])}" for name, _, _, ys in found)
        series = [Series("" if alone else name, colour, steps, ys) for name, colour, steps, ys in found]
        top = max(max(ys) for _, _, _, ys in found)
        charts.append(
            (
                title,
                lines(
                    key,
                    title,
                    f"{y_name} over the steps. {said}.",
                    series,
                    x_name="step",
                    y_name=y_name,
                    x_text=count,
                    y_text=plain,
                    y_range=(0.0, 1.05 * top if top > 0 else 1.0),
                ),
            )
        )
    return charts
