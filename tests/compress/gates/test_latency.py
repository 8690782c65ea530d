"""Latency from a table: where it is measured, what lies between, and what single layers do not explain."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from slimsight.compress.gates import CostModel
from slimsight.compress.gates.latency import (
    LatencyModel,
    Table,
    TimedLayer,
    grid_points,
    knots,
    preferred_multiple,
    width_probes,
)
from slimsight.compress.gates.layers import LayerShape, read_layers
from slimsight.compress.surgery import PrunePlan, trace_groups


def shape_of(layer: nn.Module, side: int = 8) -> LayerShape:
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    example = torch.zeros(1, inputs) if isinstance(layer, nn.Linear) else torch.zeros(1, inputs, side, side)
    return read_layers(nn.Sequential(layer), example)[0]


def table_of(layers: tuple[LayerShape, ...], ms: object) -> Table:
    """The time ``ms(timed layer)`` at every point that is looked at."""
    return {point: ms(point) for layer in layers if layer.unit for point in grid_points(layer)[2].values()}


def of_one(model: LatencyModel, inputs: float, outputs: float) -> float:
    """ms of a network of one layer at other widths."""
    return float(model.of(np.array([0]), np.array([[inputs]]), np.array([[outputs]]))[0, 0])


def test_knots_are_multiples_from_an_eighth_to_the_whole() -> None:
    assert knots(128) == [8, 16, 32, 48, 64, 80, 96, 128]
    assert knots(100) == [8, 16, 32, 48, 64, 80, 100]  # the width itself, though no multiple
    assert knots(16) == [8, 16]
    assert knots(3) == [3]
    assert knots(512)[:3] == [8, 64, 128]
    assert knots(96, step=6) == [24, 48, 96]  # of 48, and the least one a multiple of 8
    assert all(width % 32 == 0 for width in knots(256, step=32))


def test_grid_points_are_layers_that_exist() -> None:
    into, out, points = grid_points(shape_of(nn.Conv2d(64, 48, 3, padding=1, dilation=1)))
    assert (into, out) == ([8, 16, 32, 48, 64], [8, 16, 32, 48])
    assert points[16, 32] == TimedLayer((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (8, 8), 1, 16, 32)
    into, out, points = grid_points(shape_of(nn.Conv2d(32, 32, 3, groups=32)))
    assert (into, out) == ([1], [8, 16, 32])
    assert points[1, 16].groups == 16  # a depthwise convolution stays one
    into, out, points = grid_points(shape_of(nn.Conv2d(64, 96, 3, groups=4)))
    assert (into, points[8, 48].groups) == ([8, 16], 4)
    assert all(width % 4 == 0 for width in out)
    points = grid_points(shape_of(nn.Linear(64, 10)))[2]
    assert {point.kernel for point in points.values()} == {()}
    assert {point.key for point in points.values()} >= {"linear 64-10", "linear 16-8"}


def test_probes_are_the_layer_at_six_widths() -> None:
    dense = width_probes(shape_of(nn.Conv2d(64, 64, 3, padding=1)))
    assert [(layer.inputs, layer.outputs, layer.groups) for layer in dense] == [
        (width, width, 1) for width in (32, 33, 36, 40, 48, 64)
    ]
    depthwise = width_probes(shape_of(nn.Conv2d(64, 64, 3, padding=1, groups=64)))
    assert [(layer.inputs, layer.outputs, layer.groups) for layer in depthwise] == [
        (1, width, width) for width in (32, 33, 36, 40, 48, 64)
    ]


def in_blocks(block: int) -> list[float]:
    """ms of the probes in a runtime that computes whole blocks of channels."""
    return [float(math.ceil(width / block) * block) for width in (32, 33, 36, 40, 48, 64)]


@pytest.mark.parametrize("block", [1, 4, 8, 16, 32])
def test_the_multiple_is_the_block_that_a_runtime_computes(block: int) -> None:
    assert preferred_multiple(in_blocks(block)) == block


def test_a_little_noise_does_not_coarsen_the_multiple_and_a_dear_remainder_does() -> None:
    draw = np.random.default_rng(0)
    for block in (1, 8, 16):
        for _ in range(50):
            assert preferred_multiple(np.array(in_blocks(block)) * draw.uniform(0.985, 1.015, 6)) == block
    smooth = in_blocks(1)
    assert preferred_multiple([*smooth[:2], smooth[2] * 1.2, *smooth[3:]]) == 8  # 36 = 32 + 4 is slow: 33 is not asked
    assert preferred_multiple([*smooth[:4], smooth[4] * 1.2, smooth[5]]) == 32


def test_between_knots_times_are_interpolated_in_both_widths() -> None:
    """Bilinear: exact for ms = a + b inputs + c outputs + d inputs outputs, at every width."""
    layer = shape_of(nn.Conv2d(128, 64, 3, padding=1))

    def ms(inputs: float, outputs: float) -> float:
        return 1 + 0.1 * inputs + 0.2 * outputs + 0.01 * inputs * outputs

    table = table_of((layer,), lambda point: ms(point.inputs, point.outputs))
    model = LatencyModel([layer], table, ms(128, 64), {})
    assert model.explained == pytest.approx(1)
    for inputs, outputs in ((128, 64), (16, 16), (17, 16), (40, 23), (100, 63), (8, 8), (127, 9)):
        assert of_one(model, inputs, outputs) == pytest.approx(ms(inputs, outputs))
    assert of_one(model, 3, 2) == pytest.approx(ms(8, 8))  # below the table: as its smallest
    many = model.of(np.array([0]), np.array([[16.0, 40.0]]), np.array([[16.0, 23.0]]))
    np.testing.assert_allclose(many, [[ms(16, 16), ms(40, 23)]])


def test_between_knots_nothing_is_assumed_but_a_line() -> None:
    layer = shape_of(nn.Conv2d(128, 16, 1))
    by_inputs = dict(zip(knots(128), [1.0, 5.0, 2.0, 2.5, 7.0, 3.0, 3.0, 9.0], strict=True))
    model = LatencyModel([layer], table_of((layer,), lambda point: by_inputs[point.inputs]), 9.0, {})
    assert [of_one(model, width, 16) for width in (8, 12, 16, 20, 24, 56, 80, 112, 128)] == pytest.approx(
        [1, 3, 5, 4.25, 3.5, 4.75, 3, 6, 9]
    )


def test_widths_are_padded_to_the_blocks_of_the_runtime() -> None:
    layer = shape_of(nn.Conv2d(64, 64, 1))
    table = table_of((layer,), lambda point: float(point.inputs + point.outputs))
    model = LatencyModel([layer], table, 128.0, {layer.name: 16})
    assert of_one(model, 33, 49) == of_one(model, 48, 64) == pytest.approx(112)
    assert of_one(model, 32, 48) == pytest.approx(80)
    depthwise = shape_of(nn.Conv2d(64, 64, 3, groups=64))
    model = LatencyModel([depthwise], table_of((depthwise,), lambda p: float(p.outputs)), 64.0, {depthwise.name: 16})
    assert of_one(model, 1, 33) == pytest.approx(48)  # its single input is padded to nothing


LAYERS = (shape_of(nn.Conv2d(16, 32, 3, padding=1)), shape_of(nn.Linear(32, 10)))


def total_of(model: LatencyModel) -> float:
    inputs, outputs = (np.array([[float(getattr(layer, side))] for layer in LAYERS]) for side in ("inputs", "outputs"))
    return float(model.of(np.arange(len(LAYERS)), inputs, outputs).sum())


def test_what_layers_do_not_explain_goes_with_their_maps() -> None:
    """3 ms + 1 ms of 10: the other 6 are shared by 32 maps of 8x8 and 10 numbers, and shrink with them."""
    table = table_of(LAYERS, lambda point: 3.0 if point.kernel else 1.0)
    model = LatencyModel(LAYERS, table, 10.0, {})
    assert model.explained == pytest.approx(0.4)
    assert total_of(model) == pytest.approx(10)
    assert of_one(model, 16, 32) == pytest.approx(3 + 6 * 32 * 64 / (32 * 64 + 10))
    assert of_one(model, 16, 16) == pytest.approx(3 + 6 * 16 * 64 / (32 * 64 + 10))


def test_layers_that_take_longer_alone_than_the_whole_are_scaled_to_it() -> None:
    model = LatencyModel(LAYERS, table_of(LAYERS, lambda point: 3.0 if point.kernel else 1.0), 2.0, {})
    assert model.explained == pytest.approx(2)
    assert total_of(model) == pytest.approx(2)
    assert of_one(model, 16, 32) == pytest.approx(1.5)


def test_a_share_gives_the_total_that_the_table_leaves_it() -> None:
    """3 ms + 1 ms are two fifths of 10."""
    table = table_of(LAYERS, lambda point: 3.0 if point.kernel else 1.0)
    model, same = LatencyModel.of_share(LAYERS, table, 0.4, {}), LatencyModel(LAYERS, table, 10.0, {})
    assert model.explained == pytest.approx(0.4)
    assert total_of(model) == pytest.approx(10)
    assert of_one(model, 16, 16) == pytest.approx(of_one(same, 16, 16))


def test_a_layer_called_twice_takes_twice_the_time_and_a_normalisation_none() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)
            self.bn = nn.BatchNorm2d(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(self.conv(x)))

    layers = read_layers(Twice(), torch.zeros(1, 16, 8, 8), ["bn"])
    assert [(layer.name, layer.calls) for layer in layers] == [("conv", 2), ("bn", 1)]
    model = LatencyModel(layers, table_of(layers, lambda _: 3.0), 6.0, {})
    np.testing.assert_allclose(model.of(np.arange(2), np.array([[16.0], [1]]), np.array([[16.0], [16]])), [[6], [0]])


def test_a_plan_costs_what_its_layers_take_at_the_widths_it_leaves() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1), nn.ReLU())
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)])
    example = torch.zeros(1, 3, 8, 8)
    cost = CostModel.of(net, example, trace_groups(net, example).groups)
    table = table_of(cost.layers, lambda point: 1e-3 * point.inputs * point.outputs)
    total = 1e-3 * (3 * 32 + 32 * 16 + 16 * 10)
    timed = cost.timed(LatencyModel(cost.layers, table, total, {}))
    assert timed.totals["latency"] == pytest.approx(total)
    plan = PrunePlan({"0": tuple(range(12)), "2": tuple(range(16))}, {"0": 32, "2": 16})
    assert timed.amounts(plan)["latency"] == pytest.approx(1e-3 * (3 * 12 + 12 * 16 + 16 * 10))
    assert "latency" not in cost.resources
