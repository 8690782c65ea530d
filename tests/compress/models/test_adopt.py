"""A stranger's network becomes our own copy that computes the same, of plain layers; what cannot is refused by name."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ModelError
from slimsight.compress.models import build_classifier
from slimsight.compress.models.adopt import adopt
from slimsight.compress.modules import copy_of, load_tensors_, tensors_of

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def make_net(norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [] if norm is None else [norm]
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), *middle, nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(0)) / 2


FOLDED: dict[str, tuple[str, Callable[[nn.Module], object]]] = {
    "weight_norm": ("WeightNorm", parametrizations.weight_norm),
    "spectral_norm": ("SpectralNorm", parametrizations.spectral_norm),
    "orthogonal": ("Orthogonal", parametrizations.orthogonal),
    "a user's own": ("Symmetric", lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric())),
    "two in a row": (
        "Symmetric and WeightNorm",
        lambda layer: parametrize.register_parametrization(parametrizations.weight_norm(layer), "weight", Symmetric()),
    ),
    "old weight_norm": ("weight_norm", nn.utils.weight_norm),
    "old spectral_norm": ("spectral_norm", nn.utils.spectral_norm),
    "a mask": ("masks of torch.nn.utils.prune", lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "masked twice": (
        "masks of torch.nn.utils.prune",
        lambda layer: prune.ln_structured(prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3, 2, 0),
    ),
}


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("name", FOLDED)
def test_computed_weights_become_plain(name: str, place: int) -> None:
    kind, wrap = FOLDED[name]
    net = make_net()
    wrap(net[place])
    expected, before = net(IMAGES), set(net.state_dict())

    adopted = adopt(net)

    assert set(net.state_dict()) == before
    assert torch.allclose(net(IMAGES), expected)  # a copy shares its class with it
    assert set(adopted.model.state_dict()) == set(make_net().state_dict())
    assert torch.allclose(adopted.model(IMAGES), expected, atol=1e-6)
    assert len(adopted.changes) == 1
    assert f"({place}.weight)" in adopted.changes[0]
    assert set(kind.split(" and ")) <= set(adopted.changes[0].partition(":")[0].split(" and "))
    copy.deepcopy(adopted.model)
    assert isinstance(adopted.model[place].weight, nn.Parameter)  # type: ignore[index]


def test_spectral_norm_in_training_is_folded_as_it_is_in_eval_mode() -> None:
    net = make_net()
    parametrizations.spectral_norm(net[2])
    expected = net(IMAGES)
    adopted = adopt(net.train()).model
    assert adopted.training
    assert torch.allclose(adopted.eval()(IMAGES), expected, atol=1e-6)
    assert torch.equal(net.eval()(IMAGES), expected)


def test_a_frozen_computed_weight_becomes_a_frozen_parameter() -> None:
    net = make_net()
    parametrizations.weight_norm(net[2]).requires_grad_(False)
    layer = adopt(net).model.get_submodule("2")
    assert [parameter.requires_grad for parameter in layer.parameters()] == [False, False]
    assert len(list(layer.parameters())) == 2


def test_a_weight_that_a_hook_sets_is_refused_by_name() -> None:
    net = make_net()
    scale = nn.Parameter(net[2].weight.detach() * 2)
    del net[2].weight
    net[2].register_parameter("raw", scale)
    net[2].register_forward_pre_hook(lambda layer, _args: setattr(layer, "weight", layer.raw / 2))
    net(IMAGES)
    with pytest.raises(ModelError, match=r"the weight of Conv2d '2' is no parameter"):
        adopt(net)


class Keeps(nn.Module):
    """Stores activations, as Grad-CAM does: in an attribute and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()
        self.kept: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.features = self.net[0](images)
        self.kept = [self.features, self.features]
        out: Tensor = self.net[1:](self.features)
        return out


def test_kept_activations_are_copied_without_history() -> None:
    net = Keeps().eval()
    expected = net(IMAGES)
    ours = adopt(net).model
    assert isinstance(ours, Keeps)
    assert not ours.features.requires_grad
    assert ours.kept[0] is ours.kept[1] is ours.features
    assert torch.equal(ours.features, net.features)
    assert torch.equal(ours(IMAGES), expected)
    assert copy_of(ours).features.is_leaf


class Logs:
    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.maps.append(output)


def test_activations_kept_by_a_hooks_object_are_copied_without_history() -> None:
    net, logs = make_net(), Logs()
    net[0].register_forward_hook(logs.keep)
    net(IMAGES)
    adopt(net).model(IMAGES)
    assert len(logs.maps) == 1  # ours logs in a copy


@pytest.mark.parametrize("attribute", [threading.Lock(), (n for n in ()), {"open": threading.Event()}])
def test_what_has_no_copy_is_named(attribute: object) -> None:
    net = make_net()
    net[2].mine = attribute  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"cannot be copied: its '2\.mine' is a (lock|generator|dict), which has no"):
        adopt(net)


def test_torchscript_is_refused_by_name_inside_of_a_model_too() -> None:
    for scripted in (torch.jit.script(make_net()), torch.jit.trace(make_net(), IMAGES)):
        with pytest.raises(ModelError, match=r"the model is a TorchScript module .* scripted or traced from"):
            adopt(scripted)
        with pytest.raises(ModelError, match=r"the model's '0' is a TorchScript module"):
            adopt(nn.Sequential(scripted, nn.ReLU()))


def test_programs_of_torch_export_and_quantized_models_are_refused_by_name() -> None:
    program = torch.export.export(make_net(), (IMAGES,)).module()
    with pytest.raises(ModelError, match=r"the model is a program of torch\.export, .* that it was exported from"):
        adopt(program)
    packed = torch.ao.quantization.quantize_dynamic(make_net(), {nn.Linear})
    with pytest.raises(ModelError, match=r"the model's '4\._packed_params' has quantized weights .* before it was"):
        adopt(packed)


def test_a_model_that_was_compiled_before_fabric_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile(make_net())
    monkeypatch.delattr(compiled, "_compile_kwargs", raising=False)  # which Fabric stores
    monkeypatch.delattr(compiled, "_compiled_kwargs", raising=False)
    assert set(adopt(compiled).model.state_dict()) == set(make_net().state_dict())


@pytest.mark.parametrize("layer", [nn.LazyConv2d(4, 3), nn.LazyLinear(3), nn.LazyBatchNorm2d()])
def test_lazy_layers_are_refused_before_anything_else(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"the model's '0\.\w+' has no shape yet \(a lazy layer\): run the model once"):
        adopt(nn.Sequential(layer))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the model is a function; give a torch.nn.Module"):
        adopt(lambda images: images)  # type: ignore[arg-type]


def compiled_method(net: nn.Module) -> nn.Module:
    net.forward = torch.compile(net.forward)  # type: ignore[method-assign]
    return net


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile()
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        compiled_in_place,
        compiled_method,
        nn.DataParallel,
        AveragedModel,
        lambda net: nn.DataParallel(torch.compile(net)),
        lambda net: torch.compile(nn.DataParallel(net)),
    ],
)
def test_wrappers_are_taken_off_around_a_model_and_inside_of_it(wrap: Any) -> None:
    expected = make_net()(IMAGES)
    for net in (wrap(make_net()), nn.Sequential(wrap(make_net()), nn.Identity()).eval()):
        ours = adopt(net).model
        names = {name.removeprefix("0.") if isinstance(ours[-1], nn.Identity) else name for name in ours.state_dict()}  # type: ignore[index]
        assert names == set(make_net().state_dict())
        assert torch.equal(ours.eval()(IMAGES), expected)
        assert not any(type(module).__name__ == "OptimizedModule" for module in ours.modules())


def test_a_compiled_method_of_our_copy_reads_our_weights() -> None:
    net = compiled_method(make_net())
    ours = adopt(net).model
    assert isinstance(vars(ours)["forward"], MethodType)
    with torch.no_grad():
        ours.get_submodule("4").bias += 1  # type: ignore[operator]
    assert torch.allclose(ours(IMAGES), make_net()(IMAGES) + 1)


def test_a_function_in_place_of_forward_is_refused() -> None:
    net = make_net()
    inner = net.forward
    net.forward = lambda images: inner(images) * 2  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"forward\(\) of the model was replaced by the function '<lambda>'"):
        adopt(net)


class Vector(nn.Module):
    """A normalisation of vectors behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.maps = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.vector, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.vector(self.fc(self.maps(self.conv(images)).mean((2, 3)))))
        return out


def test_sync_batch_norms_become_the_plain_ones_that_they_were() -> None:
    net = Vector().eval()
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    adopted = adopt(sync)
    assert type(adopted.model.maps) is nn.BatchNorm2d
    assert type(adopted.model.vector) is nn.BatchNorm1d
    assert torch.equal(adopted.model(IMAGES), net(IMAGES))
    assert not adopted.model.maps.training
    assert adopted.changes == ("2 SyncBatchNorm are taken as plain batch normalisations",)
    adopted.model.train()(IMAGES)
    assert net.maps.running_mean is not None
    assert torch.equal(net.maps.running_mean, torch.zeros(4))


def test_a_shared_sync_batch_norm_stays_one_module() -> None:
    shared = nn.SyncBatchNorm(4)
    net = adopt(nn.Sequential(nn.Conv2d(3, 4, 1), shared, nn.Conv2d(4, 4, 1), shared)).model
    assert net[1] is net[3]  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
def test_other_precisions_become_float32(dtype: torch.dtype) -> None:
    adopted = adopt(make_net(nn.BatchNorm2d(4)).to(dtype))
    assert {value.dtype for value in adopted.model.state_dict().values()} == {torch.float32, torch.int64}
    assert adopted.changes == (f"weights of {dtype} are taken as torch.float32",)


def test_a_plain_model_is_copied_and_nothing_is_said() -> None:
    net = make_net(nn.BatchNorm2d(4)).train()
    net[1].eval()
    adopted = adopt(net)
    assert adopted.changes == ()
    assert [module.training for module in adopted.model.modules()] == [module.training for module in net.modules()]
    adopted.model[0].weight.data.zero_()  # type: ignore[index, operator, union-attr]
    assert net[0].weight.abs().min() > 0


def test_meta_tensors_are_refused() -> None:
    with torch.device("meta"):
        net = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="the model's 'weight' is on the meta device"):
        adopt(net)


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        assert state == {"version": 1}


def test_extra_state_that_is_no_tensor_is_not_stored_and_stays() -> None:
    layer = Extra(2, 2)
    stored = tensors_of(layer)
    assert set(stored) == {"weight", "bias"}
    load_tensors_(layer, {name: torch.ones_like(value) for name, value in stored.items()})
    assert layer.bias.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="bias"):
        load_tensors_(layer, {"weight": stored["weight"]})


FILE = """
import torch
from torch import nn
def plain(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))
def normed(classes):
    net = plain(classes); nn.utils.parametrizations.weight_norm(net[0]); return net
def parallel(classes):
    return nn.DataParallel(plain(classes))
def inner(classes):
    net = plain(classes); return nn.Sequential(nn.DataParallel(net[:3]), net[3])
"""


@pytest.mark.parametrize("factory", ["normed", "parallel", "inner"])
def test_weights_load_under_the_names_that_the_given_model_saves(factory: str, tmp_path: Any) -> None:
    (tmp_path / "m.py").write_text(FILE)
    space: dict[str, Any] = {}
    exec(FILE, space)
    given = space[factory](5).eval()
    torch.save(given.state_dict(), tmp_path / "w.pt")
    model = build_classifier(ModelConfig(name=f"{tmp_path / 'm.py'}:{factory}", weights=tmp_path / "w.pt"), 5)
    assert torch.allclose(model.eval().net(IMAGES), given(IMAGES), atol=1e-6)
    assert F.cross_entropy(model(IMAGES), torch.tensor([0, 1])).isfinite()
    assert bool(model.changes) == (factory == "normed")
