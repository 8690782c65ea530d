"""Small networks of each kind that strangers bring: layers, sharing, training-only heads, state, randomness, shapes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from torchvision.ops import DropBlock2d, StochasticDepth

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])

Body = Callable[["Net", Tensor], Any]


def pooled(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


class Net(nn.Module):
    """Four convolutions and a linear layer; ``body`` between the third and the last, ``head`` in place of the last.

    ``aux``: what it returns in training mode, of the second layer's maps and the logits. ``made`` changes it once.
    """

    def __init__(
        self,
        body: Body | None = None,
        *,
        out: int = 8,
        head: Body | None = None,
        aux: Callable[[Net, Tensor, Tensor], Any] | None = None,
        made: Callable[[Net], Any] = lambda _net: None,
        **layers: Any,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(out, 8, 3), nn.Linear(8, 3)
        self.side, self.aside = nn.Linear(8, 3), nn.Conv2d(8, 8, 1)
        self.body, self.head, self.aux = body, head, aux
        for name, layer in layers.items():
            setattr(self, name, layer)
        made(self)

    def forward(self, images: Tensor) -> Any:
        maps = F.relu(self.b(F.relu(self.norm(self.a(images)))))
        last = F.relu(self.c(maps))
        last = F.relu(self.d(last if self.body is None else self.body(self, last)))
        logits = self.fc(pooled(last)) if self.head is None else self.head(self, last)
        return self.aux(self, maps, logits) if self.aux is not None and self.training else logits


def layer(middle: nn.Module, out: int = 8) -> Callable[[], nn.Module]:
    """A network with ``middle`` before its last convolution."""
    return lambda: Net(lambda net, x: net.middle(x), out=out, middle=copy.deepcopy(middle))


def net(body: Body | None = None, **options: Any) -> Callable[[], nn.Module]:
    return lambda: Net(body, **options)


class ChannelsLast(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.inner(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "InstanceNorm2d": layer(nn.InstanceNorm2d(8)),
    "InstanceNorm2d, affine": layer(nn.InstanceNorm2d(8, affine=True)),
    "InstanceNorm2d with statistics": layer(nn.InstanceNorm2d(8, track_running_stats=True)),
    "GroupNorm(C, C)": layer(nn.GroupNorm(8, 8)),
    "GroupNorm(1, C)": layer(nn.GroupNorm(1, 8)),
    "LayerNorm, channels last": layer(ChannelsLast(nn.LayerNorm(8))),
    "RMSNorm, channels last": layer(ChannelsLast(nn.RMSNorm(8))),
    "LocalResponseNorm": layer(nn.LocalResponseNorm(3)),
    "F.group_norm": net(lambda _net, x: F.group_norm(x, 2)),
    "BatchNorm2d without statistics": layer(nn.BatchNorm2d(8, track_running_stats=False)),
    "ConvTranspose2d, grouped": layer(nn.ConvTranspose2d(8, 8, 3, groups=2)),
    "ConvTranspose2d, dilated": layer(nn.ConvTranspose2d(8, 6, 3, dilation=2), 6),
    "ConvTranspose2d, output_padding": layer(nn.ConvTranspose2d(8, 6, 3, 2, output_padding=1), 6),
    "Conv1d": layer(nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 8, 3, padding=1), nn.Unflatten(2, (16, 16)))),
    "Conv3d": layer(nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv3d(8, 8, 1), nn.Flatten(1, 2))),
    "PixelShuffle": layer(nn.PixelShuffle(2), 2),
    "PixelUnshuffle": layer(nn.PixelUnshuffle(2), 32),
    "Upsample": layer(nn.Upsample(scale_factor=2, mode="bilinear")),
    "GLU": layer(nn.GLU(1), 4),
    "Softmax over channels": layer(nn.Softmax(1)),
    "ChannelShuffle": layer(nn.ChannelShuffle(2)),
    "PReLU by channel": layer(nn.PReLU(8)),
    "F.prelu": net(lambda net, x: F.prelu(x, net.slopes), slopes=nn.Parameter(torch.full((8,), 0.2))),
    "spatial attention": net(
        lambda net, x: x * net.gate(torch.stack([x.mean(1), x.amax(1)], 1)).sigmoid(), gate=nn.Conv2d(2, 1, 3, 1, 1)
    ),
    "squeeze and excitation": net(
        lambda net, x: x * net.up(F.relu(net.down(x.mean((2, 3), keepdim=True)))).sigmoid(),
        down=nn.Conv2d(8, 4, 1),
        up=nn.Conv2d(4, 8, 1),
    ),
    "maxout": net(lambda _net, x: torch.maximum(x[:, :4], x[:, 4:]), out=4),
    "grouped convolution": layer(nn.Conv2d(8, 8, 3, padding=1, groups=2)),
    "a scale of one's own": net(lambda net, x: x * net.scale, scale=nn.Parameter(torch.rand(8, 1, 1))),
    "einsum": net(lambda net, x: torch.einsum("nchw,cd->ndhw", x, net.mix), mix=nn.Parameter(torch.rand(8, 8))),
    "max_unpool2d": net(lambda _net, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "MaxUnpool2d across a convolution": net(
        lambda net, x: (lambda maps, at: net.unpool(F.relu(net.middle(maps)), at))(*net.pool(x)),
        pool=nn.MaxPool2d(2, return_indices=True),
        unpool=nn.MaxUnpool2d(2),
        middle=nn.Conv2d(8, 8, 3, padding=1),
    ),
    "torch._check of a size": net(lambda _net, x: (torch._check(x.shape[1] > 0), x)[1]),
}


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


def wrapped(change: Callable[[Net], Any]) -> Callable[[], nn.Module]:
    return lambda: Net(made=change)


SHARED: dict[str, Callable[[], nn.Module]] = {
    "two layers, one weight": wrapped(lambda net: setattr(net.c, "weight", net.b.weight)),
    "two layers, one bias": wrapped(lambda net: setattr(net.c, "bias", net.b.bias)),
    "one layer twice": wrapped(lambda net: setattr(net, "c", net.b)),
    "a weight read transposed": net(lambda net, x: x + F.conv_transpose2d(x, net.c.weight, padding=1)),
    "a weight read flipped": net(lambda net, x: x + F.conv2d(x, net.c.weight.flip(-1), padding=1)),
    "a weight read detached": net(lambda net, x: x + F.conv2d(x, net.c.weight.detach(), padding=1)),
    "a weight's norm": net(lambda net, x: x * net.c.weight.norm()),
    "an alias on the model": wrapped(lambda net: setattr(net, "alias", net.b.weight)),
    "an alias in a ParameterList": wrapped(lambda net: setattr(net, "alias", nn.ParameterList([net.b.weight]))),
    "a copy as in EMA": net(lambda net, x: x + net.ema(x), ema=nn.Conv2d(8, 8, 3, padding=1)),
    "a part of a weight": net(lambda net, x: torch.cat([F.conv2d(x, net.c.weight[:4], padding=1), x[:, 4:]], 1)),
    "auxiliary: tuple": net(aux=lambda net, maps, out: (out, net.side(pooled(maps)))),
    "auxiliary: dict": net(aux=lambda net, maps, out: {"out": out, "aux": net.side(pooled(maps))}),
    "auxiliary: nested": net(aux=lambda net, maps, out: [out, {"a": (net.side(pooled(net.aside(maps))),)}]),
    "auxiliary: sum": net(aux=lambda net, maps, out: out + 0.3 * net.side(pooled(maps))),
    "auxiliary: kept in an attribute": net(
        aux=lambda net, maps, out: (setattr(net, "kept", net.side(pooled(maps))), out)[1]
    ),
    "auxiliary: by F.linear": net(aux=lambda net, maps, out: (out, F.linear(pooled(maps), net.side.weight))),
    "auxiliary: the same head": net(aux=lambda net, maps, out: (out, net.fc(pooled(maps)))),
    "auxiliary: in place of the head": net(aux=lambda net, maps, _out: net.side(pooled(maps))),
}
STATE: dict[str, Callable[[], nn.Module]] = {
    "weight norm": wrapped(lambda net: parametrizations.weight_norm(net.b)),
    "spectral norm": wrapped(lambda net: parametrizations.spectral_norm(net.b)),
    "old weight norm": wrapped(lambda net: nn.utils.weight_norm(net.b)),
    "a parametrization of one's own": wrapped(
        lambda net: parametrize.register_parametrization(net.b, "weight", Symmetric())
    ),
    "a mask": wrapped(lambda net: prune.l1_unstructured(net.b, "weight", 0.5)),
    "a lock": wrapped(lambda net: setattr(net, "mine", threading.Lock())),
    "a generator": wrapped(lambda net: setattr(net, "mine", (number for number in ()))),
    "a torch.Generator": wrapped(lambda net: setattr(net, "mine", torch.Generator())),
    "a function": wrapped(lambda net: setattr(net, "mine", lambda value: value)),
    "a hook on the original's weights": wrapped(
        lambda net: net.b.register_forward_pre_hook(lambda _layer, args: (args[0] * net.a.weight.mean(),))
    ),
    "a kept activation": net(lambda net, x: setattr(net, "kept", x) or x),
    "a plain tensor": net(head=lambda net, x: net.fc(pooled(x)) @ net.plain, plain=torch.eye(3) + 0.1),
    "a literal": net(head=lambda net, x: net.fc(pooled(x)) @ torch.eye(3)),
    "TorchScript": lambda: torch.jit.trace(Net().eval(), IMAGES),
    "a program of torch.export": lambda: torch.export.export(Net().eval(), (IMAGES,)).module(),
    "torch.compile": lambda: cast(nn.Module, torch.compile(Net())),
    "DataParallel": lambda: nn.DataParallel(Net()),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(Net()),
    "half": lambda: Net().half(),
    "bfloat16": lambda: Net().bfloat16(),
    "double": lambda: Net().double(),
    ".float() in forward": net(head=lambda net, x: net.fc(pooled(x).float())),
    "a lazy layer": wrapped(lambda net: setattr(net, "d", nn.LazyConv2d(8, 3))),
    "meta tensors": lambda: Net().to("meta"),
    "packed weights": lambda: torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}),
}
BEHAVIOUR: dict[str, Callable[[], nn.Module]] = {
    "F.dropout2d in eval mode": net(lambda _net, x: F.dropout2d(x, 0.5)),
    "noise": net(lambda _net, x: x + 0.1 * torch.randn_like(x)),
    "noise in training": net(lambda net, x: x + 0.1 * torch.randn_like(x) if net.training else x),
    "stochastic depth": layer(StochasticDepth(0.5, "row")),
    "DropBlock": layer(DropBlock2d(0.5, 3)),
    "Gumbel softmax": net(lambda _net, x: F.gumbel_softmax(x, dim=1)),
    "a count of calls": net(lambda net, x: x * (setattr(net, "n", getattr(net, "n", 0) + 1) or net.n)),
    "squeeze()": net(head=lambda net, x: net.fc(F.adaptive_avg_pool2d(x, 1).squeeze())),
    "view(x.size(0) // 2, 2, 8)": net(head=lambda net, x: net.fc(pooled(x).view(x.size(0) // 2, 2, 8)).view(-1, 3)),
    "view(4, 8)": net(head=lambda net, x: net.fc(pooled(x).view(4, 8))),
    "a mean over the batch": net(head=lambda net, x: net.fc(pooled(x) - pooled(x).mean(0))),
    "sorted over the batch": net(head=lambda net, x: net.fc(pooled(x).sort(0).values)),
    "another factor for many images": net(head=lambda net, x: net.fc(pooled(x)) * (1 + (len(x) > 2))),
    "attention in the batch": net(head=lambda net, x: net.fc((pooled(x) @ pooled(x).T) @ pooled(x))),
    "an image's value as a number": net(lambda _net, x: x * float(x.max())),
    "torch.cond": net(lambda _net, x: torch.cond(x.sum() > 0, lambda maps: maps * 2, lambda maps: maps * 3, (x,))),
    "a weight as a number": net(lambda net, x: x * float(net.fc.bias[0])),
    "a list of logits": net(head=lambda net, x: [net.fc(pooled(x))]),
    "a dict of logits": net(head=lambda net, x: {"out": net.fc(pooled(x))}),
    "classes in place of logits": net(head=lambda net, x: net.fc(pooled(x)).argmax(1)),
    "view(len(x), 2, 4)": net(head=lambda net, x: net.fc(pooled(x).view(len(x), 2, 4).flatten(1))),
    "checkpoint(use_reentrant=True)": net(lambda net, x: checkpoint(net.aside, x, use_reentrant=True)),
    "NaN": net(head=lambda net, x: net.fc(pooled(x)) * float("nan")),
    "detach": net(lambda _net, x: x.detach()),
    "an error of one's own": net(lambda _net, _x: [][1]),
    "sys.exit": net(lambda _net, _x: exit(3)),
}
