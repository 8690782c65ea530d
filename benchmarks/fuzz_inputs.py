"""Inputs of the fuzz test: a valid file of each kind, and the mutations that are applied to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from slimsight.deploy.settings.yaml_text import dump_yaml

RECIPE: dict[str, Any] = {
    "seed": 3,
    "threads": 2,
    "data": {"source": "image_folder", "path": "images", "image_size": 32, "flip": True, "val_fraction": 0.1},
    "model": {"name": "net.py:build", "weights": "w.safetensors", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "explainer": {"target_area": 0.25, "predictor": {"epochs": 2, "lr": 1e-3}, "selector": {"epochs": 2}},
    "gates": {"steer": "rbf", "steps": 100, "lr": 0.01, "images": 1000},
    "budget": {"macs": "50%", "params": "1.2M", "size": "2MB", "latency": "1.5ms", "align": "auto"},
    "finetune": {"epochs": 3, "lr": 0.01, "distill": 0.5, "steer_weight": 0.1},
    "dynamic": {"enabled": True, "masks": 4},
    "export": {"opset": 18},
    "latency": {"rounds": 50, "batch": 8},
}
BUDGET: dict[str, Any] = {
    "macs": {"fail": "50%", "warn": "45%"},
    "params": "1.2M",
    "size": "2MB",
    "latency": "1.5ms",
    "speedup": 1.2,
    "accuracy": 0.5,
    "accuracy_drop": "1%",
    "parity": True,
    "saliency_drift": {"center_px": 3, "iou": 0.5},
    "measure": {"rounds": 50, "threads": 1},
}
PLAN: dict[str, Any] = {
    "schema": 1,
    "groups": {"0": {"width": 4, "kept": [0, 1, 3]}, "3": {"width": 6, "kept": [0, 2, 4]}},
}
REPORT: dict[str, Any] = {
    "schema": 1,
    "recipe": "mine.yaml",
    "created": "2026-03-04T05:06:00Z",
    "versions": {"torch": "2.15.0"},
    "device": "cpu",
    "seed": 3,
    "model": {"name": "resnet20"},
    "data": {"source": "digits", "train": 100, "val": 10, "test": 20, "classes": 10, "image_size": 32},
    "original": {"macs": 1000, "params": 100, "size_bytes": 400, "val_accuracy": 0.9, "test_accuracy": 0.8},
    "slim": {"macs": 500, "params": 50, "size_bytes": 200, "val_accuracy": 0.9, "test_accuracy": 0.8},
    "gated": {"val_accuracy": 0.4},
    "gates": {
        "steer": "rbf",
        "steps": 10,
        "soft_macs": 510.5,
        "hard_macs": 500,
        "converged": True,
        "history": {
            "step": [1, 5, 10],
            "macs": [1.0, 0.8, 0.5],
            "target": [1.0, 0.5, 0.5],
            "ce": [2.0, 1.0, 0.5],
            "residual": [0.1, 0.2, 0.3],
            "steer": [0.0, 0.1, 0.1],
        },
    },
    "budget": {"macs_max": 500, "macs_used": 1.0, "latency_ratio_max": 0.8},
    "exactness": {
        "gated_vs_slim_max_rel": 1e-7,
        "cost_model_macs": 500,
        "fvcore_macs": 500,
        "groups": 2,
        "frozen_groups": [{"name": "net.linear", "reason": "the model's output"}],
    },
    "channels": [{"group": "a", "total": 16, "kept": 9}, {"group": "b", "total": 10, "kept": 10}],
    "parity": [
        {
            "artifact": "model.onnx",
            "runtime": "onnxruntime",
            "precision": "fp32",
            "batch": 7,
            "max_abs": 1e-6,
            "p99_abs": 1e-6,
            "top1_agreement": 1.0,
            "passed": True,
        }
    ],
    "latency": [
        {
            "runtime": "onnxruntime",
            "precision": "fp32",
            "threads": 1,
            "batch": 1,
            "original_ms": {"median": 0.8, "p90": 0.9, "p99": 1.2},
            "slim_ms": {"median": 0.5, "p90": 0.6, "p99": 0.8},
            "percentiles_ms": {"percent": [0, 50, 100], "original": [0.7, 0.8, 1.3], "slim": [0.4, 0.5, 0.9]},
            "speedup": {"median": 1.5, "low": 1.4, "high": 1.6},
        }
    ],
    "saliency": {
        "explainer": "rbf",
        "center_drift_px": 1.2,
        "iou": 0.8,
        "images": 50,
        "area": 0.2,
        "selector": {
            "mean_area": 0.2,
            "sigma_px": {"p10": 5.1, "median": 7.2, "p90": 9.9},
            "kl": 0.7,
            "kl_centred": 0.8,
            "kl_random": 1.0,
        },
    },
    "stages": [{"name": "classifier", "seconds": 3.5, "reused": False}],
    "verdict": {
        "passed": True,
        "checks": [{"name": "MACs", "limit": 500, "value": 500, "passed": True, "bound": "max", "unit": "MACs"}],
    },
}
IMAGES = tuple(f"{label}/{number:03d}.png" for label in ("cat", "dog") for number in range(20))

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, 10**30, 1e308, -1e-320, 0.5, "", "50%", "-1%", "1e999", "9" * 400, "~", "null"]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["../../x", "/dev/zero", "~root/x", "a\x00b", "\x1b[2J", "\n::error::", "<script>", "\u202e", "*a"]
    ),
    st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
_YAML = (
    "&a ",
    "*a",
    "<<: *a",
    "!!python/object:os.system ",
    "!!binary ",
    "!!timestamp ",
    "%YAML 1.1\n",
    "---\n",
    "...",
)
_MARKS = ("'", '"', "- " * 30, "? ", "| ", "{}", "[]", ",", ":", "}", "]", "[" * 60, "{" * 60, "\\ud800", "\\x1b")
_ODD = (
    "\t",
    "\r",
    "\x85",
    "\ufeff",
    "\x00",
    "NaN",
    "Infinity",
    "1e999",
    "9" * 400,
    "-0",
    "0x1f",
    "1:30",
    ".inf",
    ".nan",
)
PIECES = st.one_of(st.sampled_from((*_YAML, *_MARKS, *_ODD)), st.text(max_size=8))
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["value", "drop", "twice", "key", "cut", "double", "insert"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 40),
        JUNK,
        PIECES,
    ),
    min_size=1,
    max_size=4,
)


def paths_of_values(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a tree of mappings and lists stands."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths_of_values(value, (*path, key))


def mutated(tree: Any, edits: Any, dump: Callable[[Any], str]) -> bytes:
    """The file after the edits: those of its tree first, then those of its text."""
    tree = copy.deepcopy(tree)
    texts = []
    for how, where, count, value, piece in edits:
        at = list(paths_of_values(tree))
        if how in ("cut", "double", "insert"):
            texts.append((how, where, count, piece))
            continue
        if not at:  # an earlier change left no value to be changed
            continue
        *path, last = at[int(where * len(at))]
        holder = tree
        for key in path:
            holder = holder[key]
        if how == "value":
            holder[last] = value
        elif how == "drop":
            del holder[last]
        elif isinstance(holder, list):
            holder.insert(last, copy.deepcopy(holder[last]))
        elif how == "twice":
            holder[f"{last}s"] = copy.deepcopy(holder[last])
        else:
            holder[piece] = holder.pop(last)
    text = dump(tree)
    for how, where, count, piece in texts:
        start = int(where * (len(text) + 1))
        middle = {"cut": "", "double": text[start : start + count] * 2, "insert": piece}[how]
        text = text[:start] + middle + text[start if how == "insert" else start + count :]
    return text.encode("utf-8", "surrogatepass")


def to_yaml(tree: Any) -> str:
    try:
        return dump_yaml(tree)
    except Exception:  # noqa: BLE001 - what PyYAML cannot write is written as JSON, which YAML holds
        return json.dumps(tree)


def to_list(tree: Any) -> str:
    return "\n".join(str(line) for line in tree)
