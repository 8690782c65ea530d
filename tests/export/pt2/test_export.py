from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ExportError
from slimsight.export.pt2.export import cpu_copy, export_pt2, load_program, load_pt2, silence_output, trace

_ALONE = """
import sys, torch
model = torch.export.load(sys.argv[1]).module()
assert not {"compress", "export", "torchvision"} & set(sys.modules)
print(tuple(model(torch.zeros(3, 3, 16, 16)).shape))
"""


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
@pytest.mark.parametrize("batch", [1, 5])
def test_loaded_model_equals_the_original(case, batch):
    images = torch.rand(batch, 3, case.side, case.side)
    with torch.inference_mode():
        difference = (load_pt2(case.pt2)(images) - case.model(images)).abs().max()
    assert difference <= 1e-6


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_file_needs_no_project_code(case, tmp_path):
    command = [sys.executable, "-I", "-c", _ALONE, str(case.pt2)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(3, 10)"), done.stderr


def test_no_image_of_the_example_is_kept(tmp_path):
    export_pt2(nn.Flatten(), torch.rand(4, 3, 2, 2), tmp_path / "model.pt2")
    inputs, _ = load_program(tmp_path / "model.pt2").example_inputs or ((), {})
    assert [(tuple(images.shape), float(images.abs().sum())) for images in inputs] == [((2, 3, 2, 2), 0.0)]


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 12)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else x.flatten(1) * 2


@pytest.mark.parametrize("model", [FixedBatch(), Branching()])
def test_untraceable_model_gets_one_sentence(model, capfd):
    with pytest.raises(ExportError) as caught:
        trace(model, torch.rand(2, 3, 2, 2))
    message = str(caught.value)
    assert re.match(
        rf"{type(model).__name__} cannot be traced with a free batch size for images of shape \(3, 2, 2\): ",
        message,
    )
    assert message.endswith(
        "use flatten(1) instead of a fixed batch size, x.shape[0] instead of len(x), and do not branch on the values "
        "of tensors"
    )
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_example_must_be_a_batch():
    with pytest.raises(ExportError, match=r"the example has shape \(3, 2, 2\): give images \(N, 3, H, W\)"):
        trace(nn.Flatten(), torch.rand(3, 2, 2))


def test_copy_is_apart_from_the_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last).train()
    twin = cpu_copy(model)
    assert not twin.training
    assert twin[0].weight.is_contiguous()
    assert not twin[0].weight.requires_grad
    assert model.training
    assert model[0].weight.requires_grad
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert twin[0].weight.data_ptr() != model[0].weight.data_ptr()


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ExportError, match=r"there is no .*none\.pt2: export the model to pt2 first"):
        load_pt2(tmp_path / "none.pt2")
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    with pytest.raises(
        ExportError, match=r"junk\.pt2 is not a \.pt2 that can be opened safely \(File is not a zip file\)"
    ):
        load_pt2(tmp_path / "junk.pt2")


def test_quiet_is_local(capfd, caplog):
    with silence_output():
        sys.stdout.write("chatter")
        warnings.warn("chatter", stacklevel=1)
        logging.getLogger("torch").warning("chatter")
    logging.getLogger("after").error("heard")  # torch keeps what its own loggers say to itself
    assert capfd.readouterr().out == ""
    assert [record.message for record in caplog.records] == ["heard"]
