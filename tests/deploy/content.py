"""A whole report.json, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

CONTENT: dict[str, Any] = {
    "schema": 1,
    "recipe": "cifar10.yaml",
    "created": datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
    "versions": {"slimsight": "0.1.0", "torch": "2.15.0"},
    "device": "cpu",
    "seed": 3,
    "model": {"name": "resnet20"},
    "data": {
        "source": "image_tree",
        "train": 45000,
        "val": 5000,
        "test": 10000,
        "classes": 10,
        "image_size": 32,
    },
    "original": {
        "macs": 41_115_648,
        "params": 272_474,
        "size_bytes": 1_100_120,
        "val_accuracy": 0.8914,
        "test_accuracy": 0.8841,
    },
    "slim": {
        "macs": 20_500_000,
        "params": 150_000,
        "size_bytes": 610_400,
        "val_accuracy": 0.8872,
        "test_accuracy": 0.8790,
    },
    "gated": {"val_accuracy": 0.4612},
    "gates": {"steer": "rbf", "steps": 1000, "soft_macs": 20.7e6, "hard_macs": 20_500_000, "converged": True},
    "budget": {"macs_max": 20_557_824, "macs_used": 20_500_000 / 20_557_824},
    "exactness": {
        "gated_vs_slim_max_rel": 3.1e-7,
        "cost_model_macs": 20_500_000,
        "fvcore_macs": 20_500_000,
        "groups": 12,
        "frozen_groups": [{"name": "net.linear", "reason": "the model's output"}],
    },
    "channels": [
        {"group": "net.layer1.0.conv1", "total": 16, "kept": 9},
        {"group": "net.linear", "total": 10, "kept": 10},
    ],
    "parity": [
        {
            "artifact": "slim/model.onnx",
            "runtime": "onnxruntime",
            "precision": "fp32",
            "batch": 7,
            "max_abs": 4.2e-6,
            "p99_abs": 1.1e-6,
            "top1_agreement": 1.0,
            "passed": True,
        },
        {
            "artifact": "slim/model.pt2",
            "runtime": "torch.export",
            "precision": "fp32",
            "batch": 1,
            "max_abs": 2.0e-6,
            "p99_abs": 0.5e-6,
            "top1_agreement": 1.0,
            "passed": True,
        },
    ],
    "latency": [
        {
            "runtime": "onnxruntime",
            "precision": "fp32",
            "threads": 1,
            "batch": 1,
            "original_ms": {"median": 0.814, "p90": 0.85, "p99": 1.234},
            "slim_ms": {"median": 0.521, "p90": 0.54, "p99": 0.81},
            "speedup": {"median": 1.5624, "low": 1.51, "high": 1.61},
        }
    ],
    "saliency": {
        "explainer": "ISP selector (RBF)",
        "center_drift_px": 1.234,
        "sigma_drift_px": 0.41,
        "iou": 0.783,
        "images": 5000,
        "area": 0.221,
        "selector": {
            "mean_area": 0.243,
            "sigma_px": {"p10": 5.1, "median": 7.2, "p90": 9.9},
            "kl": 0.74,
            "kl_centred": 0.76,
            "kl_random": 1.04,
            "kl_predicted_label": 0.75,
        },
    },
    "stages": [
        {"name": "predictor", "seconds": 200.0, "reused": True},
        {"name": "gates", "seconds": 42.25, "reused": False},
        {"name": "finetune", "seconds": 20.0, "reused": False},
    ],
    "verdict": {
        "passed": True,
        "checks": [
            {
                "name": "MACs",
                "limit": 20_557_824,
                "value": 20_500_000,
                "passed": True,
                "bound": "max",
                "unit": "MACs",
            }
        ],
    },
}
