from __future__ import annotations

import pytest
import torch

from slimsight.compress.models.cifar import DEPTHS, BasicBlock, PadShortcut, ResNet, Shortcut


def test_pad_shortcut_is_option_a() -> None:
    x = torch.arange(2 * 4 * 4 * 4, dtype=torch.float32).reshape(2, 4, 4, 4) + 1
    out = PadShortcut(stride=2, extra=4)(x)
    assert out.shape == (2, 8, 2, 2)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert out[:, :2].abs().sum() == 0
    assert out[:, 6:].abs().sum() == 0


def test_odd_padding_puts_the_spare_channel_last() -> None:
    out = PadShortcut(stride=1, extra=3)(torch.ones(1, 1, 1, 1))
    assert out.flatten().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_stages_have_the_published_scales_and_are_after_relu(shortcut: Shortcut) -> None:
    net = ResNet(20, 10, shortcut).eval()
    shapes = []
    for stage in (net.layer1, net.layer2, net.layer3):
        stage.register_forward_hook(
            lambda _m, _i, out: shapes.append((tuple(out.shape), float(out.detach().min()) >= 0))
        )
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [((2, 16, 32, 32), True), ((2, 32, 16, 16), True), ((2, 64, 8, 8), True)]


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_counts_the_weighted_layers(depth: int) -> None:
    net = ResNet(depth, 10)
    layers = [name for name, _ in net.named_parameters() if "conv" in name or name == "linear.weight"]
    assert len(layers) == depth


def test_state_dict_names_are_those_of_the_public_weights() -> None:
    names = set(ResNet(20, 10).state_dict())
    bn = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    expected = {"conv1.weight", "linear.weight", "linear.bias"} | {f"bn1.{key}" for key in bn}
    for block in (f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(3)):
        expected |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
        expected |= {f"{block}.bn{number}.{key}" for number in (1, 2) for key in bn}
    assert names == expected


def test_block_computes_its_definition() -> None:
    torch.manual_seed(0)
    block = BasicBlock(4, 8, 2, "conv").eval()
    x = torch.randn(2, 4, 6, 6)
    inner = block.bn1(block.conv1(x)).clamp(min=0)
    expected = (block.bn2(block.conv2(inner)) + block.shortcut(x)).clamp(min=0)
    assert torch.equal(block(x), expected)


def test_other_depths_are_refused() -> None:
    with pytest.raises(AssertionError, match="depth is 18"):
        ResNet(18, 10)
