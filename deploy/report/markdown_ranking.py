"""report.md's part on an explainer whose maps rank pixels."""

from __future__ import annotations

from .schema import Report
from .tables import to_table
from .units import as_percent


def ranking(report: Report) -> str:
    """KL by share of the pixels removed and by what ranked them, as a Markdown table."""
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
    return to_table(["pixels ranked by", *(f"without {share}" for share in shares)], rows, "l" + "r" * len(shares))
