"""REAL-X and VarSal against ISP's radial basis masks on ResNet-20 and CIFAR-10: their maps, and how they steer.

    .venv/bin/python benchmarks/realx_vs_rbf.py [--explainer rbf ...] [--epochs 5] [--out runs/realx]

Trains predictor and selector of every explainer on the same images, and writes the row of each to
results/realx_vs_rbf.json: KL (nats), area and roughness of the maps on validation images, the total variance of the
explanations over the images, and the gradient that they send to the gates. VarSal has no predictor: its KL is that of
the classifier itself behind the masks, and compares with no other row's. The panel of ISP's Fig. 1 (image, p, p > .5,
masked image) goes to <out>/realx_vs_rbf.png. Weights that are in <out> already are taken as they are, and drawn.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from slimsight.compress.config import ExplainerConfig, GatesConfig
from slimsight.compress.data import Batches, Splits, open_splits
from slimsight.compress.explain import (
    STEERING,
    ExplainedClassifier,
    Head,
    Predictor,
    Selector,
    find_scales,
    find_targets,
    new_predictor,
    train_predictor,
)
from slimsight.compress.explain.amortized.heads import total_variance
from slimsight.compress.explain.amortized.predictor import divergence
from slimsight.compress.explain.amortized.rbf import area, roughness
from slimsight.compress.files.atomic import atomic_path, read_json, read_tensors, write_json, write_tensors
from slimsight.compress.gates import CostModel, Gates, learn_gates
from slimsight.compress.models import build_classifier
from slimsight.compress.surgery import ChannelGroup, masked, trace_groups
from slimsight.compress.training import Learning, make_fabric
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.settings.recipe import Recipe, load_recipe

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "configs" / "cifar10_resnet20.yaml"
RESULTS = HERE / "results" / "realx_vs_rbf.json"
EXPLAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rbf": ("rbf", {}),
    "realx": ("realx", {"realx": {"variant": "relaxed"}}),
    "realx-original": ("realx", {"realx": {"variant": "original"}}),
    "varsal": ("varsal", {"varsal": {"lr": 1e-3, "batch_size": 64}}),
}
"""Rows: the explainer's name and what its recipe says."""

TITLES = {"rbf": "ISP: radial basis", "realx": "REAL-X, relaxed", "realx-original": "REAL-X, hard masks"}
TITLES["varsal"] = "VarSal, highest quarter"
BATCH, GRADIENT_BATCHES, PICTURED = 250, 8, 6
GATES = GatesConfig(steer="none", steps=300)
"""How the gates are learned, without steering and to half of the MACs, at which gradients are compared."""


class Study:
    """Recipe, images and classifier that all explainers share."""

    def __init__(self, images: int, seed: int) -> None:
        self.recipe: Recipe = load_recipe(RECIPE)
        self.splits: Splits = open_splits(self.recipe.data, cache_dir=default_cache(), seed=seed)
        self.seed = seed
        order = np.random.default_rng(seed).permutation(len(self.splits.train))[:images]
        self.train = self.splits.train.subset(np.sort(order))
        self.classifier = build_classifier(self.recipe.model, len(self.splits.classes)).eval().requires_grad_(False)
        self.val = Batches(self.splits.val, BATCH)

    @property
    def side(self) -> int:
        return self.splits.image_size

    def shuffled(self, batch_size: int) -> Batches:
        return Batches(self.train, batch_size, shuffle=True, seed=self.seed, flip=True, drop_last=True)

    def network(self, head: type[Head]) -> ExplainedClassifier:
        """The classifier with a selector that has learned nothing."""
        scales = find_scales(self.classifier, torch.zeros(1, 3, self.side, self.side))
        selector = Selector(scales, len(self.splits.classes), self.side, head)
        return ExplainedClassifier(self.classifier, selector).eval()


def learned(
    study: Study, name: str, epochs: dict[str, int], out: Path, progress: ConsoleProgress
) -> tuple[ExplainedClassifier, Predictor | None, ExplainerConfig]:
    """The explainer of row ``name`` and its predictor, if it has one; trained now unless their weights are there."""
    kind, settings = EXPLAINERS[name]
    base = study.recipe.explainer.model_dump()
    schedule = {part: {**base[part], "epochs": count, "patience": count} for part, count in epochs.items()}
    schedule["varsal"] = {**base["varsal"], **settings.get("varsal", {}), "epochs": epochs["selector"]}
    config = ExplainerConfig.model_validate({**base, **settings, **schedule})
    explainer = STEERING.get(kind)
    torch.manual_seed(study.seed)
    network, predictor = study.network(explainer.head), None
    fabric, quick = make_fabric(), Batches(study.splits.val.subset(np.arange(0, len(study.splits.val), 5)), BATCH)
    if explainer.masks is not None:
        file, predictor = out / f"{name}-predictor.safetensors", new_predictor(study.classifier, config.predictor)
        if not file.exists():
            train_predictor(
                predictor,
                study.classifier,
                study.shuffled(config.predictor.batch_size),
                quick,
                Learning(fabric, progress=progress),
                config=config.predictor,
                draw=explainer.masks(config),
            )
            write_tensors(file, predictor.state_dict())
        predictor.load_state_dict(read_tensors(file))
        predictor.eval().requires_grad_(False)
    file = out / f"{name}-selector.safetensors"
    if not file.exists():
        selector_train = study.shuffled(explainer.batch_size(config))
        explainer.train(network, predictor, selector_train, quick, Learning(fabric, progress=progress), config=config)
        write_tensors(file, network.selector.state_dict(), {"explainer": kind})
    network.selector.load_state_dict(read_tensors(file))
    return network.eval().requires_grad_(False), predictor, config


@torch.inference_mode()
def map_means(study: Study, network: ExplainedClassifier, predictor: Predictor, target_area: float) -> dict[str, float]:
    """Means over all validation images, for the true labels: of the map p, of the mask p > .5, and of the highest p.

    The last is a mask of the target area on every image: explainers are then compared at the same area.
    """
    sums: dict[str, float] = {}
    head, numbers = network.selector.head, []
    for batch in study.val.epoch(0):
        logits, found = network(batch.images, batch.labels)
        p = head.to_maps(found)
        numbers.append(head.steered_part(found))
        for form, mask in (("map", p), ("mask", (p > 0.5).float()), ("highest", top_share_mask(p, target_area))):
            for figure, value in (
                ("kl", float(divergence(logits, predictor(batch.images, mask)).sum())),
                ("area", float(area(mask).sum())),
                ("roughness", float(roughness(mask)) * len(mask)),
            ):
                sums[f"{form}_{figure}"] = sums.get(f"{form}_{figure}", 0.0) + value
    return {
        **{name: value / study.val.count for name, value in sums.items()},
        "total_variance": total_variance(torch.cat(numbers)),
    }


def top_share_mask(maps: Tensor, share: float) -> Tensor:
    """(N, 1, H, W) 1 at the ``share`` of the pixels where a map is highest, 0 elsewhere."""
    flat = maps.flatten(1)
    kept = flat.topk(round(share * flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat).scatter_(1, kept, 1.0).view_as(maps)


def learn_plain(study: Study, network: ExplainedClassifier, out: Path, progress: ConsoleProgress) -> dict[str, Tensor]:
    """Logits of gates, by group, learned without steering: the same for all explainers."""
    file = out / "gates.safetensors"
    if not file.exists():
        groups = groups_of(study, network)
        cost = CostModel.of(study.classifier, torch.zeros(1, 3, study.side, study.side), groups, prefix=network.PREFIX)
        train = Batches(study.train, GATES.batch_size, shuffle=True, seed=study.seed, drop_last=True)
        torch.manual_seed(study.seed)
        result = learn_gates(
            network,
            groups,
            cost,
            train,
            Learning(make_fabric(), progress=progress),
            config=GATES,
            budget=0.5 * cost.total,
            targets=None,
        )
        assert result.converged, result.in_words()
        write_tensors(file, result.scores)
    return read_tensors(file)


def steering(study: Study, network: ExplainedClassifier, scores: dict[str, Tensor]) -> dict[str, float]:
    """Norms of d CE / d logits of the gates and of g1 d |C_x - f_sel|^2 / d logits, means over batches, no noise."""
    groups, weight = groups_of(study, network), study.recipe.gates.steer_weight
    targets = find_targets(network, Batches(study.train, BATCH))
    gates = Gates(groups)
    gates.theta.data = torch.cat([scores[group.name] for group in groups])
    norms: dict[str, list[float]] = {"ce": [], "steer": []}
    distances = []
    for batch in islice(Batches(study.train, BATCH).epoch(0), GRADIENT_BATCHES):
        with masked(network, groups, gates.split(gates(noise=0.0))):
            logits, found = network(batch.images, batch.labels)
        distance = targets.distance(found, batch.indices)
        distances.append(float(distance.detach()))
        for name, term in (("ce", F.cross_entropy(logits, batch.labels)), ("steer", weight * distance)):
            (gradient,) = torch.autograd.grad(term, gates.theta, retain_graph=True)
            norms[name].append(float(gradient.norm()))
    return {
        "targets_variance": total_variance(targets.numbers),
        "unit": targets.unit,
        "distance_px2": statistics.mean(distances),
        **{f"gradient_{name}": statistics.mean(values) for name, values in norms.items()},
    }


def groups_of(study: Study, network: ExplainedClassifier) -> tuple[ChannelGroup, ...]:
    """The channel groups of classifier and explainer."""
    example = torch.zeros(1, 3, study.side, study.side)
    return tuple(trace_groups(network, example, prefix=network.PREFIX, view=network.view).groups)


def draw(study: Study, networks: dict[str, ExplainedClassifier], path: Path) -> None:
    """A row per image: the image, then p, p > .5 and the masked image of every explainer (ISP Fig. 1)."""
    classes = np.asarray(study.splits.val.labels)
    chosen = [int(np.flatnonzero(classes == label)[3]) for label in range(PICTURED)]
    images = torch.from_numpy(np.asarray(study.splits.val.images[np.array(chosen)])).float() / 255
    labels = torch.from_numpy(classes[chosen])
    grey = study.classifier.normalize.mean
    columns = 1 + 3 * len(networks)
    figure = Figure(figsize=(1.7 * columns, 1.8 * PICTURED + 0.7))
    FigureCanvasAgg(figure)
    cells = figure.subplots(PICTURED, columns, squeeze=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.7 / figure.get_figheight(), 0.06, 0.06)
    shown: list[tuple[str, list[Any]]] = [("image", [pixels(image) for image in images])]
    with torch.inference_mode():
        for name, network in networks.items():
            p = network.selector.head.to_maps(network(images, labels)[1])
            hard = (p > 0.5).float()
            title = TITLES[name]
            shown += [
                (f"{title}\np", list(p[:, 0].numpy())),
                ("\np > 0.5", list(hard[:, 0].numpy())),
                ("\nmasked image", [pixels(image) for image in images * hard + grey * (1 - hard)]),
            ]
    for column, (title, pictures) in enumerate(shown):
        cells[0, column].set_title(title, fontsize=11, loc="left")
        for row, picture in enumerate(pictures):
            axes = cells[row, column]
            axes.imshow(picture, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
    with atomic_path(path) as part:
        figure.savefig(part, dpi=100, format="png", facecolor="white")


def pixels(image: Tensor) -> np.ndarray[Any, Any]:
    """(3, H, W) in [0, 1] as matplotlib takes it."""
    return np.asarray(image.permute(1, 2, 0).clamp(0, 1).numpy())


def main() -> None:
    """Train, measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--explainer", action="append", choices=EXPLAINERS, help="default: rbf and realx")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=5, help="of the predictor")
    parser.add_argument("--selector-epochs", type=int, help="default: as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "realx")
    given = parser.parse_args()
    study = Study(given.images, given.seed)
    epochs = {"predictor": given.epochs, "selector": given.selector_epochs or given.epochs}
    rows = {row["explainer"]: row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
    for name in given.explainer or ("rbf", "realx"):
        with ConsoleProgress() as progress:
            network, predictor, config = learned(study, name, epochs, given.out, progress)
            scores = learn_plain(study, network, given.out, progress)
        quality = STEERING.get(EXPLAINERS[name][0]).judge(network, predictor, study.val, make_fabric(), config=config)
        rows[name] = {
            "explainer": name,
            "schedule": {
                "images": given.images,
                **{f"{part}_epochs": n for part, n in epochs.items() if predictor or part == "selector"},
            },
            "seed": given.seed,
            "target_area": config.target_area,
            "quality": quality.to_dict(),
            **map_means(study, network, predictor or Predictor(study.classifier), config.target_area),
            **steering(study, network, scores),
        }
        print(rows[name], flush=True)
        ordered = [rows[key] for key in EXPLAINERS if key in rows]
        write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": ordered})
    with ConsoleProgress() as progress:
        there = [name for name in EXPLAINERS if (given.out / f"{name}-selector.safetensors").exists()]
        networks = {name: learned(study, name, epochs, given.out, progress)[0] for name in there}
    draw(study, networks, given.out / "realx_vs_rbf.png")


if __name__ == "__main__":
    main()
