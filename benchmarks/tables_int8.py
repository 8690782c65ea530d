"""Tables on INT8: accuracy control, quantisation-aware training, plans, branches, and torchvision's classifiers."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]

_FILES = {
    "per_channel": "a scale for each channel",
    "per_tensor": "a scale for each tensor",
    "sqnr_18": "the same with accuracy control, `sqnr_db: 18`",
    "agreement_97": "the same with accuracy control, `agreement: 97%`",
}


def int8_control(found: Results) -> str:
    """A line for each file that was measured."""
    lines = [
        "| file | layers in FP32, in the optimised graph | same class as FP32: validation, test | SQNR, validation | "
        "time of a call, over that with all layers in INT8 |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        kept = [f"{row[part]['agreement']:.1%}".replace("%", " %") for part in ("validation", "test")]
        ratio = row.get("accuracy_control", {}).get("time_ratio")
        time = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else ""
        lines.append(
            f"| {_FILES[row['row']]} | {len(row['float_layers_in_optimised_graph'])} | {', '.join(kept)} | "
            f"{row['validation']['sqnr_db']:.1f} dB | {time} |"
        )
    return "\n".join(lines)


def int8_qat(found: Results) -> str:
    """Before and after training, for each network."""
    lines = [
        "| channels multiplied by up to | accuracy in FP32 | calibrated: same class, SQNR, accuracy | trained | "
        "file against what was trained, 99 % below |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(found["rows"], key=lambda row: row["spread"]):
        kept = row["trained"]["qat"]["kept"]
        proof = next((one for one in row["trained"]["proof"] if one["runtime"].startswith("pytorch")), None)
        spread = 2 ** row["spread"] if row["spread"] else "1: as it was trained"
        trained = _kept(row["trained"]) if kept else "not better: the calibrated file stays"
        against = "" if proof is None else f"{proof['p99']:.3f}"
        fp32 = _percent(row["fp32_accuracy"])
        lines.append(f"| {spread} | {fp32} | {_kept(row['calibrated'])} | {trained} | {against} |")
    return "\n".join(lines)


def int8_plans(found: Results) -> str:
    """Speed-up over the original in FP32 of each plan's files."""
    names = {
        "original": "none: the original",
        "macs": "MACs, multiples of 16",
        "fp32": "times of layers in FP32",
        "int8": "times of layers in integers",
    }
    lines = ["| plan by | MACs | its FP32 file | its INT8 file |", "|---|---|---|---|"]
    for row in found["rows"]:
        files = [_ratio(row[f"{name}_speedup"]) for name in ("fp32", "int8")]
        lines.append(f"| {names[row['plan']]} | {_percent(row['macs'])} | {files[0]} | {files[1]} |")
    return "\n".join(lines)


def int8_branches(found: Results) -> str:
    """Time over that of plain FP32 layers."""
    lines = [
        "| channels | FP32 in branches | INT8, plain | INT8 in branches |",
        "|---|---|---|---|",
    ]
    for row in found["rows"]:
        times = [f"{row['time_ratio'][name]:.2f}" for name in ("fp32_branches", "int8", "int8_branches")]
        lines.append(f"| {row['channels']} | {' | '.join(times)} |")
    return "\n".join(lines)


def int8_zoo(found: Results) -> str:
    """What runtimes make of each network's u8 file, and of an engine from its s8 file."""
    lines = [
        "| network | of FP32 | ONNX Runtime: 99 % below, same class | OpenVINO | SQNR | engine of s8 | trainable |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        name = row["model"].removeprefix("torchvision:")
        if "error" in row:
            lines.append(f"| {name} | {row['error']} | | | | | |")
            continue
        ran = {one["runtime"]: _proof(one) for one in row["runtimes"]}
        engine = row["engine"]
        built = "not built" if "not_built" in engine else f"{engine['layers_in_integers']} layers in integers"
        noise = row["fidelity"]["sqnr_db"]
        lines.append(
            f"| {name} | {_percent(row['of_fp32'])} | {ran.get('onnxruntime-cpu', '')} | {ran.get('openvino', '')} | "
            f"{'' if noise is None else f'{noise:.1f} dB'} | {built} | {'yes' if row['trains'] else 'no'} |"
        )
    return "\n".join(lines)


def _proof(row: Results) -> str:
    p99 = "not finite" if row["p99"] is None else f"{row['p99']:.3f}"
    return f"{p99}, {_percent(row['agreement'])}" + ("" if row["passed"] else ": falls short")


def _kept(row: Results) -> str:
    return f"{_percent(row['agreement'])}, {row['sqnr_db']:.1f} dB, {_percent(row['accuracy'])}"


def _ratio(found: Results) -> str:
    return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
