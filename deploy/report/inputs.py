"""Parts of report.json on what a run was given: its images and what they go through."""

from __future__ import annotations

from typing import Literal

from slimsight.compress.config import Count

from .parts import (
    ReportPart,
    Share,
    Whole,
)


class PreprocessingFigures(ReportPart):
    """What an image file goes through before it is the input of the original and of every exported file.

    ``resize``: pixels that the short side is scaled to, with ``stretch`` both sides; ``crop``: of the centre square
    that is cut out then; ``words``: both in a sentence. Normalisation by ``mean`` and ``std`` is the model's first
    layer, inside the files.
    """

    resize: Count
    crop: Count
    stretch: bool
    interpolation: str
    layout: str = "NCHW"
    channels: str = "RGB"
    range: str = "[0, 1]"
    normalisation: str = "inside the file"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    words: str


class DataFigures(ReportPart):
    """Source of the images, and the size of each split.

    ``test``: 0 where there are no test images, None in reports that do not say. ``skipped``: images that the recipe
    leaves out (``data.skip``), and the first of their paths. ``val_majority``: share of the most frequent class.
    ``labels``: ``none`` where the images have none; then no accuracy is known, and agreement with the original is.
    """

    source: str
    train: Whole
    val: Whole
    test: Whole | None = None
    classes: Whole
    image_size: Whole | None = None
    val_majority: Share | None = None
    labels: Literal["none"] | None = None
    skipped: Whole = 0
    skipped_names: tuple[str, ...] = ()
    preprocessing: PreprocessingFigures | None = None

    @property
    def without_test(self) -> bool:
        """Whether the images are known to have no test set."""
        return self.test == 0
