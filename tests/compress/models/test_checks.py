"""What a network is checked for before anything is learned: one sentence each, and the same answer for any batch."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from slimsight.compress.errors import ModelError
from slimsight.compress.models import Classifier, check_classifier, check_logits

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Body = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution, something of a test's own, and a linear layer."""

    def __init__(self, body: Body, inputs: int = 3, **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.body = nn.Conv2d(inputs, 4, 3), nn.Linear(4, 3), body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(self, F.relu(self.conv(images))))
        return out


def mean(net: Net, maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


def tokens(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C), not contiguous."""
    return maps.flatten(2).transpose(1, 2)


LINEAR: dict[str, Net] = {
    "maps (N, H, W, C)": Net(
        lambda net, x: net.get_submodule("mix")(x.permute(0, 2, 3, 1)).mean((1, 2)), mix=nn.Linear(4, 4)
    ),
    "the same without a bias": Net(
        lambda net, x: net.get_submodule("mix")(x.permute(0, 2, 3, 1)).mean((1, 2)), mix=nn.Linear(4, 4, bias=False)
    ),
    "tokens": Net(lambda net, x: net.get_submodule("mix")(tokens(x)).mean(1), mix=nn.Linear(4, 4)),
    "over pixels (a mixer)": Net(lambda net, x: net.get_submodule("mix")(x.flatten(2)).mean(2), mix=nn.Linear(36, 9)),
    "a product with a weight": Net(lambda net, x: (tokens(x) @ net.fc.weight.T @ net.fc.weight).mean(1)),
    "einsum with a normalised weight": Net(
        lambda net, x: torch.einsum("nchw,dc->ndhw", x, F.normalize(net.conv.weight.flatten(1)[:, :4])).mean((2, 3))
    ),
}
ATTENTION: dict[str, Net] = {
    "tokens with each other": Net(lambda net, x: (tokens(x) @ tokens(x).transpose(1, 2) @ tokens(x)).mean(1)),
    "channels with each other": Net(lambda net, x: (x.flatten(2) @ tokens(x)).mean(2)),
    "einsum": Net(lambda net, x: torch.einsum("nchw,ndhw->ncd", x, x).mean(2)),
    "one product": Net(lambda net, x: F.scaled_dot_product_attention(tokens(x), tokens(x), tokens(x)).mean(1)),
    "a layer of torch": Net(
        lambda net, x: net.get_submodule("mix")(tokens(x), tokens(x), tokens(x))[0].mean(1),
        mix=nn.MultiheadAttention(4, 2, batch_first=True),
    ),
}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_are_no_attention(name: str, count: int) -> None:
    assert check_logits(LINEAR[name].eval(), IMAGES[:count]) == 3


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_gives_logits_for_any_number_of_images(name: str, count: int) -> None:
    assert check_logits(ATTENTION[name].eval(), IMAGES[:count]) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda net, x: x * int(torch.tensor(2)), "a tensor of its own into a Python value"),
        (lambda net, x: x * float(net.fc.bias[0]), "a tensor of its own into a Python value"),
        (lambda net, x: x if net.fc.bias[0] > 9 else -x, "a tensor of its own into a Python value"),
        (lambda net, x: x * x.max().item(), "what it computes can depend on the image"),
        (lambda net, x: x if x.max() > 0.5 else -x, "what it computes can depend on the image"),
    ],
)
def test_tensors_that_become_python_values_are_refused_for_what_they_are(body: Body, words: str) -> None:
    net = Net(lambda net, x: body(net, x).mean((2, 3)))
    with pytest.raises(ModelError, match=rf"{words}|{words}.*test_checks\.py, line \d+"):
        check_logits(net.eval(), IMAGES)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            lambda net, x: torch.cond(x.sum() > 0, lambda maps: maps * 2, lambda maps: maps * 3, (x,)),
            r"torch's higher-order operator 'cond', which takes functions and may branch or loop by the image",
        ),
        (
            lambda net, x: checkpoint(nn.Identity(), x, use_reentrant=True),
            r"gradients \(When use_reentrant=True.*\): gates are learned by gradients",
        ),
    ],
)
def test_the_reason_is_that_of_the_model(body: Body, words: str) -> None:
    net = Net(lambda net, x: body(net, x).mean((2, 3)))
    with pytest.raises(ModelError, match=words):
        check_logits(net.eval(), IMAGES)


def test_products_with_tensors_that_are_no_parameters_are_no_attention() -> None:
    plain = torch.rand(4, 4)
    net = Net(lambda net, x: x.mean((2, 3)) @ plain @ torch.eye(4) @ torch.ones(4, 4) @ torch.tensor([[1.0] * 4] * 4))
    assert check_logits(net.eval(), IMAGES) == 3


def test_logits_that_are_sorted_over_the_batch_depend_on_it_wherever_the_image_is() -> None:
    for descending in (False, True):
        net = Net(lambda net, x, way=descending: x.mean((2, 3)).sort(0, descending=way).values)  # type: ignore[misc]
        with pytest.raises(ModelError, match="depend on the images beside it"):
            check_logits(net.eval(), IMAGES)


RANDOM: dict[str, Body] = {
    "dropout": lambda net, x: F.dropout(x, 0.5).mean((2, 3)),
    "noise": lambda net, x: (x + 0.1 * torch.randn_like(x)).mean((2, 3)),
    "a random crop": lambda net, x: x[..., torch.randperm(6)[:3]].mean((2, 3)),
    "a random weight": lambda net, x: x.mean((2, 3)) * torch.rand(4),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_networks_are_refused_with_the_line(name: str) -> None:
    net, before = Net(RANDOM[name]).eval(), torch.get_rng_state()
    with pytest.raises(ModelError, match=r"draws random numbers in eval mode \(.*test_checks\.py, line \d+\)"):
        check_logits(net, IMAGES)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_counts_its_calls_is_refused() -> None:
    calls: list[int] = []

    def body(net: Net, maps: Tensor) -> Tensor:
        calls.append(1)
        return maps.mean((2, 3)) * len(calls)

    with pytest.raises(ModelError, match="sees the same images twice: it changes what it keeps"):
        check_logits(Net(body).eval(), IMAGES)


def test_randomness_without_an_effect_is_allowed() -> None:
    assert check_logits(Net(lambda net, x: x.mean((2, 3)) + 0 * torch.rand(4)), IMAGES) == 3


DEPENDENT: dict[str, tuple[Body, str]] = {
    "squeeze": (
        lambda net, x: x.mean((2, 3), keepdim=True).squeeze(),
        r"returns \(3,\) for 1 image: its shapes depend",
    ),
    "squeeze(0)": (lambda net, x: x.mean((2, 3)).squeeze(0), r"returns \(3,\) for 1 image"),
    "a fixed batch": (lambda net, x: x.reshape(4, 4, -1).mean(2), r"returns \(4, 3\) for 1 image"),
    "a fixed view": (lambda net, x: x.view(4, 4, 36).mean(2), "takes images, but not 1 image at once: RuntimeError"),
    "a mean over the batch": (lambda net, x: (x - x.mean(0)).mean((2, 3)), "depend on the images beside it"),
    "batch statistics": (
        lambda net, x: F.batch_norm(x, None, None, training=True).mean((2, 3)) ** 2,
        "depend on the images beside it",
    ),
    "a running sum": (lambda net, x: x.cumsum(0).flip(0).mean((2, 3)), "depend on the images beside it"),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_the_batch_is_refused(name: str) -> None:
    body, message = DEPENDENT[name]
    with pytest.raises(ModelError, match=message):
        check_logits(Net(body).eval(), IMAGES)


def test_one_image_that_is_given_is_tried_as_two() -> None:
    with pytest.raises(ModelError, match="takes images, but not 2 images at once"):
        check_logits(Net(lambda net, x: x.view(1, 4, 36).mean(2)).eval(), IMAGES[:1])


def test_norms_without_statistics_may_look_at_the_batch() -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert check_logits(Net(lambda net, x: norm(x).mean((2, 3)) ** 2, norm=norm).eval(), IMAGES) == 3


@pytest.mark.parametrize(("channels", "words"), [(1, "1 channel"), (4, "4 channels")])
def test_a_run_says_that_it_gives_rgb(channels: int, words: str) -> None:
    net = Net(mean, inputs=channels)
    for model in (net, Classifier(net, (0.5, 0.5, 0.5), (1, 1, 1))):
        with pytest.raises(ModelError, match=f"takes images of {words} and a run gives it RGB images of 3"):
            check_classifier(model.eval(), 8, 3)
    assert check_logits(net, torch.rand(2, channels, 8, 8)) == 3


def test_another_fault_is_not_blamed_on_the_channels() -> None:
    with pytest.raises(ModelError, match="the model does not take 3x8x8 images: RuntimeError"):
        check_classifier(Net(lambda net, x: x.mean(3), inputs=1).eval(), 8, 3)
    with pytest.raises(ModelError, match=r"3x8x8 images: RuntimeError: [^()]*\(2x192 and 7x3\)$"):
        check_classifier(nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), 8, 3)  # no line of ours, where none is its own


class Auxiliary(nn.Module):
    def __init__(self, returns: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.net, self.head, self.returns = Net(mean), nn.Linear(3, 3), returns

    def forward(self, images: Tensor) -> object:
        logits = self.net(images)
        return self.returns(logits, self.head(logits)) if self.training else logits


GoogLike = namedtuple("GoogLike", ("aux", "logits"))


@pytest.mark.parametrize(
    "returns",
    [
        lambda logits, aux: logits + 0.3 * aux,
        lambda logits, aux: (logits, aux),
        lambda logits, aux: [logits, [aux]],
        lambda logits, aux: {"first": aux, "out": logits},
        lambda logits, aux: {"first": logits, "aux": aux},
        lambda logits, aux: GoogLike(aux, logits),
        lambda logits, aux: ({"logits": (logits, aux)}, aux),
    ],
)
def test_auxiliary_outputs_of_training_are_left_aside(returns: Callable[[Tensor, Tensor], object]) -> None:
    """A run trains on the logits: the gradient is that of the logits alone, and an auxiliary head gets none."""
    net = Auxiliary(returns)
    model = Classifier(net, (0.5,) * 3, (0.25,) * 3).train()
    check_classifier(model, 8, 3)
    logits = model(IMAGES)
    assert logits.shape == (4, 3)
    logits.sum().backward()
    summed = isinstance(returns(torch.ones(1), torch.ones(1)), Tensor)
    assert (net.head.weight.grad is not None) == summed
    assert torch.equal(model.eval()(IMAGES), net.net((IMAGES - 0.5) / 0.25))


@pytest.mark.parametrize(
    ("returns", "what"),
    [
        (lambda logits, aux: (aux, logits), "tuple"),
        (lambda logits, aux: {"aux": aux, "main": logits}, "dict"),
        (lambda logits, aux: (), "tuple"),
        (lambda logits, aux: (None, logits), "tuple"),
        (lambda logits, aux: torch.stack([logits, aux]), r"shape \(2, 2, 3\)"),
    ],
)
def test_a_run_needs_logits_in_training_mode_too(returns: Callable[[Tensor, Tensor], object], what: str) -> None:
    with pytest.raises(ModelError, match=f"the model returns {what} in training mode, whose first value .* is not"):
        check_classifier(Classifier(Auxiliary(returns), (0.5,) * 3, (0.25,) * 3).eval(), 8, 3)
