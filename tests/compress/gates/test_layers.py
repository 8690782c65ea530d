import pytest
import torch
from torch import nn

from slimsight.compress.gates.latency import timed_layer
from slimsight.compress.gates.layers import read_layers


@pytest.mark.parametrize(
    ("layer", "padding", "dilation"),
    [
        (nn.Conv2d(3, 4, 3), (0, 0, 0, 0), (1, 1)),
        (nn.Conv2d(3, 4, 3, padding=1), (1, 1, 1, 1), (1, 1)),
        (nn.Conv2d(3, 4, 3, padding="valid"), (0, 0, 0, 0), (1, 1)),
        (nn.Conv2d(3, 4, 3, padding="same", dilation=2), (2, 2, 2, 2), (2, 2)),
        (nn.Conv2d(3, 4, (2, 5), padding="same", dilation=(1, 3)), (0, 6, 1, 6), (1, 3)),
        (nn.Conv2d(3, 4, (1, 7), stride=(1, 2), padding=(0, 3)), (0, 3, 0, 3), (1, 1)),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_padding_and_dilation_are_what_the_layer_computes_with(
    layer: nn.Conv2d, padding: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    image = torch.rand(1, 3, 17, 17)
    (shape,) = read_layers(nn.Sequential(layer), image)
    assert (shape.padding, shape.dilation) == (padding, dilation)
    above, left, below, right = shape.padding
    padded = nn.functional.pad(image, (left, right, above, below))
    by_hand = nn.functional.conv2d(padded, layer.weight, layer.bias, shape.stride, dilation=shape.dilation)
    torch.testing.assert_close(by_hand, layer(image))


def test_what_changes_a_layers_time_is_in_its_key() -> None:
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, 1),
        nn.ConvTranspose2d(3, 4, 3, padding=1),
    ]
    shapes = [read_layers(nn.Sequential(layer), torch.zeros(1, 3, 9, 9))[0] for layer in layers]
    keys = [timed_layer(shape, 3, 4).key for shape in shapes]
    assert keys[0] == "3x3 /1x1 +1x1x1x1 d1x1 @9x9 g1 3-4"
    assert keys[-1] == "transposed 3x3 /1x1 +1x1x1x1 d1x1 @9x9 g1 3-4"
    assert len({*keys, timed_layer(shapes[0], 3, 5).key, timed_layer(shapes[0], 2, 4).key}) == len(layers) + 2


def test_a_linear_layer_has_the_place_of_a_1x1_convolution() -> None:
    shape = read_layers(nn.Sequential(nn.Linear(3, 4)), torch.zeros(1, 3))[0]
    assert (shape.kernel, shape.stride, shape.padding, shape.dilation) == ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    assert timed_layer(shape, 3, 4, linear=True).key == "linear 3-4"
