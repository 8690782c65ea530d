from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ModelError
from slimsight.compress.files.atomic import read_tensors
from slimsight.compress.models import Classifier, build_classifier, load_weights

GIVEN = Path(__file__).parents[4] / "shared" / "weights"
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def small(classes: int = 4) -> Classifier:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, classes))
    return Classifier(net, MEAN, STD)


def trained() -> dict[str, Tensor]:
    """A state dict of ``small().net`` that no initialisation draws."""
    return {name: torch.full_like(tensor, 3) for name, tensor in small().net.state_dict().items()}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("depth", [20, 56])
def test_given_weights_fit(depth: int) -> None:
    path = GIVEN / f"resnet{depth}_cifar10_jpeg.safetensors"
    if not path.exists():
        pytest.skip("trained weights are not beside this checkout")
    model = build_classifier(ModelConfig(name=f"resnet{depth}", weights=path), 10)
    for name, tensor in read_tensors(path).items():
        assert torch.equal(model.net.state_dict()[name], tensor), name


@pytest.mark.parametrize("prefix", ["", "net.", "module.", "module.net.", "_orig_mod.module.", "model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_names_and_formats(tmp_path: Path, prefix: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    tensors = prefixed(prefix, trained())
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    model = small()
    load_weights(model, path)
    assert all(bool((tensor == 3).all()) for tensor in model.net.state_dict().values())
    assert model.normalize.mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize("container", ["state_dict", "model", "model_state_dict"])
def test_checkpoints_of_training_scripts(tmp_path: Path, container: str) -> None:
    torch.save({container: prefixed("module.", trained()), "epoch": 7, "best": 93.5}, tmp_path / "c.pth")
    model = small()
    load_weights(model, tmp_path / "c.pth")
    assert bool((model.net.state_dict()["3.weight"] == 3).all())


LOSS = {"criterion.weight": torch.ones(3)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"ema": trained()}, []),
        ({"state_dict_ema": trained()}, []),
        ({"weights": trained()}, []),
        ({"model_ema": prefixed("module.", trained()), "epoch": 3}, []),
        ({"checkpoint": 1, "state_dict": {"model": prefixed("backbone.", trained())}}, []),
        ({"state_dict": {**prefixed("model.", trained()), **LOSS}}, ["left out, beside the network: criterion.weight"]),
        ({**prefixed("student.net.", trained()), **LOSS}, ["left out, beside the network: criterion.weight"]),
        ({"model": trained(), "ema": prefixed("x.", trained())}, ["those of 'model' were taken, not 'ema'"]),
        ({**prefixed("module.", trained()), "n_averaged": torch.tensor(7)}, []),
        ({**trained(), "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}, []),
    ],
)
def test_checkpoints_as_trainers_write_them(tmp_path: Path, content: dict[str, Any], said: list[str]) -> None:
    path = tmp_path / "c.ckpt"
    torch.save(content, path)
    model = small()
    load_weights(model, path)
    assert all(bool((tensor == 3).all()) for tensor in model.net.state_dict().values())
    assert [change.removeprefix(f"weights {path}: ") for change in model.changes] == said


def test_averaged_models_of_torch(tmp_path: Path) -> None:
    source = small()
    source.net.load_state_dict(trained())
    torch.save(torch.optim.swa_utils.AveragedModel(source.net).state_dict(), tmp_path / "swa.pt")
    model = small()
    load_weights(model, tmp_path / "swa.pt")
    assert bool((model.net.state_dict()["3.weight"] == 3).all())


def test_what_was_taken_is_said_where_a_run_builds_its_model(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n\n\ndef build(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, classes))\n"
    )
    torch.save({"model": trained(), "ema": trained()}, tmp_path / "c.pth")
    model = build_classifier(ModelConfig(name=f"{tmp_path / 'm.py'}:build", weights=tmp_path / "c.pth"), 4)
    assert [change for change in model.changes if "those of 'model' were taken, not 'ema'" in change]


def test_parts_of_the_network_are_never_left_out(tmp_path: Path) -> None:
    tensors = {**prefixed("model.", trained()), "3.weight": torch.zeros(4, 8)}
    del tensors["model.3.weight"]
    torch.save(tensors, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"tensor '3.weight' is missing from the file"):
        load_weights(small(), tmp_path / "c.pth")


def test_a_whole_classifier_brings_its_normalisation(tmp_path: Path) -> None:
    source = Classifier(small().net, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = small()
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.normalize.mean, source.normalize.mean)
    assert torch.equal(model.normalize.std, source.normalize.std)
    assert torch.equal(model(torch.ones(1, 3, 2, 2)), source(torch.ones(1, 3, 2, 2)))


def test_counters_may_be_missing_and_half_precision_is_converted(tmp_path: Path) -> None:
    tensors = {name: t.half() for name, t in trained().items() if not name.endswith("num_batches_tracked")}
    save_file(tensors, tmp_path / "w.safetensors")
    model = small()
    load_weights(model, tmp_path / "w.safetensors")
    assert model.net.state_dict()["0.weight"].dtype is torch.float32
    assert model.net.state_dict()["1.num_batches_tracked"] == 0


def without(name: str) -> dict[str, Tensor]:
    tensors = trained()
    del tensors[name]
    return tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            trained() | {"3.weight": torch.zeros(10, 8), "3.bias": torch.zeros(10)},
            "tensor '3.weight' has shape (10, 8), the model expects (4, 8) (and 1 other tensor does not",
        ),
        (
            without("0.bias"),
            "tensor '0.bias' is missing from the file, the model expects it with shape (2,)",
        ),
        (
            trained() | {"4.bias": torch.zeros(3)},
            "the file has tensor '4.bias' of shape (3,), the model has none; choose the model, shortcut",
        ),
        (
            {"a": torch.zeros(1)},
            "'0.weight' is missing from the file, the model expects it with shape (2, 3, 1, 1) "
            "(and 8 other tensors do not fit)",
        ),
        (
            trained() | {"1.running_var": torch.tensor([1, float("nan")])},
            "holds NaN or infinity in tensor '1.running_var'",
        ),
    ],
    ids=["shape", "missing", "unexpected", "stranger", "nan"],
)
def test_misfits_name_the_first_tensor_and_change_nothing(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=re.escape(message)):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    torch.save(build_classifier(ModelConfig(name="resnet20"), 10).net.state_dict(), tmp_path / "r20.pt")
    with pytest.raises(ModelError, match=r"'layer1\.3\.conv1\.weight' is missing .* \(and \d+ other tensors do"):
        build_classifier(ModelConfig(name="resnet32", weights=tmp_path / "r20.pt"), 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            small(),
            "holds more than tensors (a pickled model?), or is damaged; unpickling could run any code",
        ),
        ([torch.zeros(1)], "holds list, not a state dict; save only the weights"),
        ({}, "holds dict, not a state dict"),
        ({"epoch": 3}, "is not a state dict: 'epoch' is int, not a tensor"),
    ],
    ids=["module", "list", "empty", "numbers"],
)
def test_torch_files_without_a_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=re.escape(message)):
        load_weights(small(), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.onnx", b"x", "ends in '.onnx', not .safetensors, .pt or .pth; save only the weights"),
        ("w.safetensors", b"half", "is not a readable safetensors file: "),
        ("w.pt", b"", "is damaged, or not a torch file (EOFError"),
        ("w.pt", b"half a file", "w.pt is damaged, or not a torch file (KeyError: "),
        ("gone.pt", None, "gone.pt does not exist; give a .safetensors file or a state dict (.pt, .pth)"),
        (".", None, "is a folder; give a .safetensors file"),
    ],
)
def test_files_that_hold_no_weights(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(message)):
        load_weights(small(), path)


def test_a_truncated_torch_file(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"w\.pt (is damaged, or not a torch file)"):
        load_weights(small(), tmp_path / "w.pt")
