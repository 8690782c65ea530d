"""Several inputs and outputs through the Python API: named exactness, files, parity, refusals."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import slimsight
from slimsight.compress.errors import ConfigError, ExportError

MAGNITUDE = slimsight.GatesConfig(steer="magnitude")


@dataclass
class Output:
    maps: list[Tensor]
    score: Tensor


class TwoStreams(nn.Module):
    """Images of five channels and depth of one, not square; a dataclass comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(5, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.c, self.maps, self.score = nn.Conv2d(16, 12, 3, padding=1), nn.Conv2d(12, 4, 1), nn.Linear(12, 3)

    def forward(self, images: Tensor, depth: Tensor) -> Output:
        x = self.c(torch.cat([self.a(images).relu(), self.b(depth).relu()], 1)).relu()
        return Output([self.maps(x)], self.score(x.mean((2, 3))))


def slimmed_and_inputs(keywords: bool) -> tuple[Any, Any, Any]:
    inputs = {"images": torch.rand(2, 5, 8, 12), "depth": torch.rand(2, 1, 8, 12)}
    model = TwoStreams()
    traced = slimsight.trace(model, inputs if keywords else tuple(inputs.values()))
    assert traced.outputs == {"out.maps[0]": (2, 4, 8, 12), "out.score": (2, 3)}
    assert [(group.name, group.channels) for group in traced.graph.groups] == [("a", 8), ("b", 8), ("c", 12)]
    scores = slimsight.learn_gates(traced, [], config=MAGNITUDE)
    return slimsight.slim(traced, slimsight.select(traced, scores, macs=0.5)), inputs, model


@pytest.mark.parametrize("keywords", [False, True])
def test_several_inputs_are_slimmed_saved_and_exported_by_name(keywords: bool, tmp_path: Path) -> None:
    slimmed, inputs, model = slimmed_and_inputs(keywords)
    assert slimmed.macs <= 0.5 * (8 * 12 * (9 * (5 * 8 + 8 + 16 * 12) + 12 * 4) + 12 * 3)
    assert set(slimmed.outputs) == {"out.maps[0]", "out.score"}
    assert slimmed.max_rel == max(slimmed.outputs.values()) < 1e-5
    differences = slimsight.export_onnx(slimmed, tmp_path / "slim.onnx")
    assert set(differences) == {"out.maps[0]", "out.score"}
    assert max(differences.values()) < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "slim.onnx"))
    (maps, score) = session.run(["out.maps[0]", "out.score"], {name: value.numpy() for name, value in inputs.items()})
    expected = slimmed.model(**inputs)
    assert torch.allclose(torch.from_numpy(score), expected.score, atol=1e-5)
    assert torch.allclose(torch.from_numpy(maps), expected.maps[0], atol=1e-5)
    slimsight.save(slimmed, tmp_path / "slim")
    program, again = slimsight.load(tmp_path / "slim"), slimsight.load(tmp_path / "slim", TwoStreams())
    arguments: Any = ((), inputs) if keywords else (tuple(inputs.values()), {})
    assert torch.allclose(program(*arguments[0], **arguments[1])["out.score"], expected.score, atol=1e-6)
    assert torch.equal(again(**inputs).score, expected.score)
    assert model(**inputs).maps[0].shape == (2, 4, 8, 12)


def test_what_needs_logits_or_loaders_of_images_says_so(tmp_path: Path) -> None:
    inputs = (torch.rand(2, 5, 8, 12), torch.rand(2, 1, 8, 12))
    traced = slimsight.trace(TwoStreams(), inputs)
    with pytest.raises(ConfigError, match=r"the model takes several inputs: explainers and gates are learned from"):
        slimsight.learn_gates(traced, [inputs])
    with pytest.raises(ConfigError, match="the model takes several inputs"):
        slimsight.explain(traced, [], [])
    scores = slimsight.learn_gates(traced, [], config=MAGNITUDE)
    plan = slimsight.select(traced, scores, macs=0.5)
    with pytest.raises(ConfigError, match="the model takes 2 inputs, and a loader here gives images alone"):
        slimsight.slim(traced, plan, [inputs])
    with pytest.raises(ConfigError, match=r"no slim model of slimsight\.slim: give an example"):
        slimsight.export_onnx(TwoStreams(), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match=r"give a file that ends in \.onnx"):
        slimsight.export_onnx(TwoStreams(), tmp_path / "a.pt", inputs)
    with pytest.raises(ConfigError, match="opset is 7; give 18 to 22"):
        slimsight.export_onnx(TwoStreams(), tmp_path / "a.onnx", inputs, opset=7)
    assert list(tmp_path.iterdir()) == []


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.b(self.norm(self.a(images)).relu()),)


def test_a_segmenter_of_one_channel_takes_new_statistics_and_learns_no_gates() -> None:
    images = torch.rand(4, 1, 6, 10)
    traced = slimsight.trace(Maps(), images)
    assert traced.classes is None
    with pytest.raises(ConfigError, match=r"the model returns out\[0\]: explainers and gates are learned from"):
        slimsight.learn_gates(traced, [images])
    scores = slimsight.learn_gates(traced, [], config=MAGNITUDE)
    slimmed = slimsight.slim(traced, slimsight.select(traced, scores, macs=0.5), [images])
    model: Any = slimmed.model
    assert model.norm.num_features == 4
    assert torch.allclose(model.norm.running_mean, model.a(images).mean((0, 2, 3)), atol=1e-6)


def test_an_output_that_a_file_gets_wrong_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from slimsight.export import named

    own = named._run
    monkeypatch.setattr(
        named, "_run", lambda *given: {name: value + (name == "out[1]") for name, value in own(*given).items()}
    )

    class Pair(Maps):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (*super().forward(images), self.a(images))

    with pytest.raises(ExportError, match=r"output 'out\[1\]' of .* differs from the model's by"):
        slimsight.export_onnx(Pair(), tmp_path / "a.onnx", torch.rand(2, 1, 6, 10))
