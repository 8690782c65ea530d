"""Table of the report on an explainer whose maps rank pixels."""

from __future__ import annotations

from .schema import Report
from .tables import Table
from .units import as_percent


def ranking(report: Report) -> Table:
    """KL by share of the pixels removed and by what ranked them."""
    assert report.saliency is not None
    found = report.saliency.ranking
    assert found is not None
    rows = [
        [name, *(f"{value:.3f}" for value in values)]
        for name, values in (
            ("the explainer", found.kl),
            ("distance from the image centre", found.kl_centre),
            ("another image's map", found.kl_other),
            ("chance", found.kl_random),
        )
    ]
    shares = [as_percent(share, 0) for share in found.removed]
    return Table(["pixels ranked by", *(f"without {share}" for share in shares)], rows, "l" + "r" * len(shares))
