"""Accuracy control: layers that ruin a file stay in FP32, no others, in ONNX Runtime too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ExportError
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.control import Control, ControlImages, Kept, KeptLimits, choose_float_layers, least_sure
from slimsight.export.int8.fidelity import compare_fidelity
from slimsight.export.int8.make import make_int8
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.int8.quantise import Quantiser, Scheme
from slimsight.export.onnx_files.metadata import read_metadata
from slimsight.export.runners.onnxruntime_session import layers_in_onnxruntime
from slimsight.export.to_onnx import export_onnx

from .conftest import SIDE, images

RUINED = ("block.conv2/Conv", "depthwise/Conv")
CHOSEN_ON = images(64, seed=4)


@pytest.fixture(scope="module")
def ruined(to_mixed: Callable[[int], nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP32 file of which one scale for a whole weight ruins two layers: one channel has weights of 300 times.

    In one its input is always 0, in the other its output is clipped: ranges of values stay as they are.
    """
    model, path = to_mixed(10), tmp_path_factory.mktemp("ruined") / "model.onnx"
    with torch.no_grad():
        model.block.bn1.weight[0], model.block.bn1.bias[0] = 0, -1
        model.block.conv2.weight[:, 0] *= 300
        model.depthwise.weight[0] *= 300
    export_onnx(model, torch.rand(1, 3, SIDE, SIDE), path)
    return path


@pytest.fixture(scope="module")
def quantiser(ruined: Path, calibration: Calibration) -> Iterator[Quantiser]:
    with Quantiser(ruined, calibration, Scheme(weights="per_tensor")) as entered:
        yield entered


def control(most: int = 8, **limits: float) -> Control:
    return Control(KeptLimits(**limits), ControlImages(CHOSEN_ON, np.zeros(64, np.int64)), most)


def test_the_layers_that_ruin_the_file_stay_in_fp32_and_no_others(
    quantiser: Quantiser, ruined: Path, tmp_path: Path
) -> None:
    found = choose_float_layers(quantiser, control(sqnr_db=40))
    assert (found.float_layers, found.reached, found.before.sqnr_db < 25) == (RUINED, True, True)
    noise = {row.layer: row.sqnr_db for row in found.sensitivity}
    assert list(noise) == list(quantiser.layers)
    assert max(noise[name] for name in RUINED) + 10 < min(noise[name] for name in noise if name not in RUINED)
    made = quantiser.write(tmp_path / "kept.onnx", found.float_layers)
    assert made.float_layers == RUINED
    optimised = layers_in_onnxruntime(made.path)
    assert (optimised.floating, optimised.requantised, optimised.fell_back) == (RUINED, (), ())
    near = compare_fidelity(onnx_logits(ruined, CHOSEN_ON), onnx_logits(made.path, CHOSEN_ON))
    exact = onnx_logits(ruined, CHOSEN_ON)
    unsure = least_sure(exact)
    gaps = np.diff(np.sort(exact, axis=1)[:, -2:], axis=1)[:, 0]
    assert len(unsure) == 16
    assert gaps[unsure].max() <= np.delete(gaps, unsure).min()
    same = (exact.argmax(1) == onnx_logits(made.path, CHOSEN_ON).argmax(1))[unsure].mean()
    assert (near.sqnr_db, same) == (found.after.sqnr_db, found.after.agreement)
    assert near.sqnr_db >= 40
    assert read_metadata(made.path).all["int8_float_layers"] == ", ".join(RUINED)
    assert read_metadata(made.path).all["int8_weights"] == "per_tensor"
    onnx.checker.check_model(onnx.load(made.path), full_check=True)


def test_a_limit_that_cannot_be_kept_is_said_and_the_nearer_file_is_written(quantiser: Quantiser) -> None:
    found = choose_float_layers(quantiser, control(1, sqnr_db=40))
    assert (len(found.float_layers), found.reached) == (1, False)
    assert set(found.float_layers) <= set(RUINED)
    assert found.after.sqnr_db > found.before.sqnr_db
    assert found.to_dict()["limits"] == {"sqnr_db": 40}


def test_a_file_that_keeps_its_limits_is_left_as_it_is(quantiser: Quantiser) -> None:
    found = choose_float_layers(quantiser, control(sqnr_db=0.01))
    assert (found.float_layers, found.sensitivity, found.files, found.reached) == ((), (), 1, True)
    assert found.after == found.before


def test_every_layer_may_stay_in_fp32_and_logits_are_then_those_of_fp32_activations(quantiser: Quantiser) -> None:
    graph = quantiser.to_graph(float_layers=quantiser.layers)
    onnx.save(graph, path := quantiser.folder / "all.onnx")
    optimised = layers_in_onnxruntime(path)
    assert (optimised.integer, optimised.floating) == ((), quantiser.layers)


@pytest.mark.parametrize(
    ("limits", "kept", "passes"),
    [
        ({"agreement": 0.97}, Kept(0.97, 1.0), True),
        ({"agreement": 0.97}, Kept(0.969, 99.0), False),
        ({"sqnr_db": 20.0}, Kept(0.0, 19.9), False),
        ({"accuracy_drop": 0.01}, Kept(0.5, 5.0, 0.01), True),
        ({"accuracy_drop": 0.01, "agreement": 0.5}, Kept(0.5, 5.0, 0.011), False),
        ({"accuracy_drop": 0.01}, Kept(1.0, 50.0, None), False),
        ({"sqnr_db": 20.0}, Kept(0.0, float("nan")), False),
    ],
)
def test_all_limits_must_be_kept(limits: dict[str, float], kept: Kept, passes: bool) -> None:
    assert KeptLimits(**limits).keeps(kept) is passes


def test_what_control_cost_is_measured_against_the_file_with_all_layers_in_int8(
    ruined: Path, calibration: Calibration, tmp_path: Path
) -> None:
    compared: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def ratio(path: Path, other: Path) -> dict[str, float]:
        compared.append(tuple(layers_in_onnxruntime(each).floating for each in (path, other)))
        return {"median": 1.25, "low": 1.2, "high": 1.3}

    made = make_int8(
        ruined,
        tmp_path / "kept.onnx",
        calibration,
        images(32, seed=8),
        scheme=Scheme(weights="per_tensor"),
        control=control(sqnr_db=40),
        time_ratio=ratio,
    )
    assert compared == [(RUINED, ())]
    assert made.proof.passed
    stated = made.to_dict()["accuracy_control"]
    assert (stated["time_ratio"]["median"], stated["layers_kept"]) == (1.25, list(RUINED))


def test_too_few_images_to_choose_on_are_refused() -> None:
    with pytest.raises(ExportError, match=r"31 training images are left to choose FP32 layers on.*at least 32"):
        ControlImages(CHOSEN_ON[:31])
