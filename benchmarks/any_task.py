"""Detectors, segmenters, hybrids with attention and networks that split channels: what shrinks, and is it exact?

    .venv/bin/python benchmarks/any_task.py [--only torchvision:swin_t] [--again]

Random weights, the smallest image that the network takes. A row a model: what ``inspect`` finds, a plan by magnitude
with its proof in float64, what is frozen and why, and the parity of every output of the slim model's ONNX file; or the
sentence with which it is refused. Rows are written one by one to results/any_task.json; those that are there stay.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import SlimError
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.gates import counted_limits, read_budget
from slimsight.compress.models import build_net
from slimsight.compress.models.adopt import adopt
from slimsight.compress.models.detector import RawDetector
from slimsight.compress.surgery import ProofCache
from slimsight.deploy.channel_scores import rank_by_weights
from slimsight.deploy.inspection import inspect_model
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.steps import choose_plan, find_groups, slim_copy, to_cost_model
from slimsight.export.named import export_named

RESULTS = Path(__file__).resolve().parent / "results" / "any_task.json"
SEED = 0


@dataclass(frozen=True)
class Subject:
    """A network, its kind, the side of its images (pixels) and the share of its MACs that a plan keeps."""

    model: str
    kind: str
    side: int
    kept: float = 0.5


SUBJECTS = (
    Subject("torchvision:shufflenet_v2_x1_0", "classifier", 64),
    Subject("timm:cspresnet50", "classifier", 64),
    Subject("timm:cspdarknet53", "classifier", 64),
    Subject("timm:res2net50_26w_4s", "classifier", 64),
    Subject("timm:mixnet_s", "classifier", 64),
    Subject("timm:tf_mixnet_s", "classifier", 64),
    Subject("torchvision:lraspp_mobilenet_v3_large", "segmentation", 64),
    Subject("torchvision:deeplabv3_mobilenet_v3_large", "segmentation", 64),
    Subject("torchvision:deeplabv3_resnet50", "segmentation", 64),
    Subject("torchvision:fcn_resnet50", "segmentation", 64),
    Subject("torchvision:ssdlite320_mobilenet_v3_large", "detection", 320),
    Subject("torchvision:ssd300_vgg16", "detection", 300),
    Subject("torchvision:fcos_resnet50_fpn", "detection", 64),
    Subject("torchvision:retinanet_resnet50_fpn", "detection", 64),
    Subject("torchvision:fasterrcnn_mobilenet_v3_large_fpn", "detection", 64),
    Subject("timm:levit_128s", "hybrid", 224, 0.7),
    Subject("timm:repvit_m0_9", "hybrid", 64, 0.7),
    Subject("timm:fastvit_t8", "hybrid", 64, 0.7),
    Subject("timm:edgenext_xx_small", "hybrid", 64, 0.7),
    Subject("timm:mobilevit_s", "hybrid", 64, 0.7),
    Subject("timm:mobilenetv4_hybrid_medium", "hybrid", 64, 0.7),
    Subject("timm:efficientformer_l1", "hybrid", 224, 0.7),
    Subject("torchvision:convnext_tiny", "hybrid", 64, 0.7),
    Subject("torchvision:swin_t", "hybrid", 224, 0.7),
    Subject("torchvision:swin_v2_t", "hybrid", 256, 0.7),
    Subject("timm:coatnet_0_rw_224", "hybrid", 224, 0.7),
    Subject("torchvision:maxvit_t", "hybrid", 224, 0.7),
    Subject("torchvision:vit_b_16", "hybrid", 224, 0.7),
)


def build(subject: Subject) -> nn.Module:
    """The network with random weights; a detector up to its raw outputs."""
    torch.manual_seed(SEED)
    library, _, name = subject.model.partition(":")
    if library == "timm" or subject.kind in ("hybrid", "classifier"):
        return _woken(build_net(ModelConfig(name=subject.model), 1000))
    from torchvision import models

    net: nn.Module = models.get_model(name, weights=None, weights_backbone=None)
    return RawDetector(net) if subject.kind == "detection" else net


@torch.no_grad()
def _woken(net: nn.Module) -> nn.Module:
    """``net`` with random weights also in heads that start at zero, whose outputs would be equal whatever they read."""
    for parameter in net.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return net


def measure(subject: Subject) -> dict[str, Any]:
    """The row of one network."""
    head = {"model": subject.model, "kind": subject.kind, "input": f"3x{subject.side}x{subject.side}"}
    shape, budget = (3, subject.side, subject.side), read_budget(macs=subject.kept)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        proofs = ProofCache(Path(folder))
        try:
            net = build(subject)
            found = inspect_model(subject.model, net, shape, budget=budget, proofs=proofs).to_dict()
            seconds = time.process_time() - started
            parity = to_parity(net, shape, subject.kept, proofs, Path(folder) / "slim.onnx")
        except SlimError as error:
            return {**head, "refused": str(error)}
    plan = found["plan"]
    return {
        **head,
        "macs": found["macs"],
        "attention_macs": found["attention_macs"],
        "plan": {
            "macs": plan["macs"],
            "max_rel": plan["max_rel"],
            "outputs": plan["outputs"],
            "cost_model_macs": plan["cost_model_macs"],
            "fvcore_macs": plan["fvcore_macs"],
            "seconds": round(seconds, 1),
        },
        "smallest_macs": found["smallest_macs"],
        "groups": found["groups"],
        "frozen": list(found["frozen_groups"]),
        "onnx_parity": parity,
    }


def to_parity(
    net: nn.Module, shape: tuple[int, int, int], kept: float, proofs: ProofCache, path: Path
) -> dict[str, float] | str:
    """Differences of every output of the slim model's ONNX file, or why there is no such file."""
    generator = torch.Generator().manual_seed(SEED)
    images: Tensor = torch.rand(2, *shape, generator=generator)
    model = adopt(net).model.eval()
    graph = find_groups(model, images, proofs=proofs)
    cost = to_cost_model(model, images, graph)
    limits = counted_limits(read_budget(macs=kept), cost)
    plan = choose_plan(cost, rank_by_weights(model, graph, "magnitude"), limits).plan
    try:
        return export_named(slim_copy(model, plan, images), images, path)
    except SlimError as error:
        return str(error)


def to_line(row: dict[str, Any]) -> str:
    """What the terminal shows of a row."""
    if "refused" in row:
        return f"{row['model']}: refused: {row['refused']}"
    plan, parity = row["plan"], row["onnx_parity"]
    onnx = parity if isinstance(parity, str) else f"{max(parity.values()):.1e}"
    same = "agrees" if plan["cost_model_macs"] == plan["fvcore_macs"] else "DISAGREES"
    return (
        f"{row['model']}: {row['groups']} groups, {len(row['frozen'])} frozen, at least "
        f"{row['smallest_macs'] / row['macs']:.3f}; at {plan['macs'] / row['macs']:.4f} of the MACs "
        f"{plan['max_rel']:.1e} in float64, fvcore {same}; ONNX {onnx}; {plan['seconds']} CPU s"
    )


def main() -> None:
    """Measure and write."""
    names = [subject.model for subject in SUBJECTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=names, help="may be given more than once")
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for subject in SUBJECTS:
        rows = {row["model"]: row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
        asked = given.only is None or subject.model in given.only
        if not asked or (subject.model in rows and not given.again):
            continue
        rows[subject.model] = measure(subject)
        gc.collect()
        print(to_line(rows[subject.model]), flush=True)
        ordered = [rows[name] for name in names if name in rows]
        write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": ordered})


if __name__ == "__main__":
    main()
