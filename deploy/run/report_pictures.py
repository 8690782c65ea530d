"""drift.png: the validation images whose explanations moved most, original beside slim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from slimsight.compress.explain import AmortizedExplainer, Saliency
from slimsight.compress.explain.fidelity.drift import REGION, compare_maps
from slimsight.compress.explain.fidelity.similarity import CONSTANT, INFORMATIVE, centres_of_mass, mass_of, region

from ..report.canvas import draw_strip, show
from ..report.files import Strip, write_strips
from ..report.markdown import DRIFT_PICTURE
from ..report.panels import DrawableMaps, DriftRow, draw_drift, draw_pair
from .session import Session


def to_drawable(saliency: Saliency) -> list[DrawableMaps]:
    """Convert saliency maps to what pictures draw."""
    mass = mass_of(saliency)
    regions, centres = region(mass, REGION), centres_of_mass(mass)
    if saliency.parameters is not None:
        centres = saliency.parameters[:, :2].double().cpu()
    kinds = compare_maps(saliency, saliency).original
    unsure = None if saliency.uncertainty is None else saliency.uncertainty.detach().double().cpu().numpy()
    found = []
    for row, kind in enumerate(kinds.tolist()):
        says = None if kind == INFORMATIVE else "constant map" if kind == CONSTANT else "nothing above zero"
        centre = (float(centres[row, 0]), float(centres[row, 1])) if says is None else None
        uncertainty = None if unsure is None else unsure[row]
        found.append(DrawableMaps(mass[row].numpy(), regions[row].numpy(), centre, says, uncertainty))
    return found


def draw_worst(session: Session, worst: Sequence[Mapping[str, Any]]) -> None:
    """drift.png and its strips into the run directory: validation images by their indices and figures, worst first.

    Both models explain the images' labels, as where the drift was measured.
    """
    _, slim = session.slim()
    if slim is None or not worst:
        return
    original, val, classes = session.explained(), session.splits.val, session.splits.classes
    chosen = np.array([image["index"] for image in worst])
    pixels = np.asarray(val.images[chosen])
    images, labels = torch.from_numpy(pixels).float() / 255, torch.from_numpy(val.labels[chosen])
    with torch.inference_mode():
        predicted = [network.classifier(images).argmax(1).tolist() for network in (original, slim)]
    before, after = (to_drawable(AmortizedExplainer(network).explain(images, labels)) for network in (original, slim))
    rows = []
    for row, image in enumerate(worst):
        truth, was, now = (classes[int(each)] for each in (labels[row], predicted[0][row], predicted[1][row]))
        note = f"image {image['index']}\noriginal: {was}\nslim: {now}\n{_moved(image)}"
        title = f"true class: {truth}" if session.labelled else f"original's class: {truth}"
        rows.append(DriftRow(title, note, pixels[row], before[row], after[row], wrong=now != truth))
    draw_drift(session.run.root / DRIFT_PICTURE, rows)
    write_strips(session.run.root, "drifted", [_to_strip(number, row) for number, row in enumerate(rows, 1)])


def _to_strip(number: int, row: DriftRow) -> tuple[Strip, bytes]:
    def draw(cells: Sequence[Axes]) -> None:
        show(cells[0], row.image.transpose(1, 2, 0))
        draw_pair(cells[1], cells[2], row.image, row.original, row.slim)

    strip = Strip(
        file=f"drifted-{number:02d}.webp",
        title=row.title,
        lines=tuple(row.note.splitlines()),
        wrong=row.wrong,
        columns=("image", "original", "slim"),
    )
    height, width = row.image.shape[1:]
    return strip, draw_strip(3, (height, width), draw)


def _moved(image: Mapping[str, Any]) -> str:
    if image["center_px"] is None:
        return "explanation lost"
    return f"centre moved {image['center_px']:.1f} px\noverlap {100 * image['region_iou']:.0f} %"
