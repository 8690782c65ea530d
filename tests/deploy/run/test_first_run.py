"""A stranger's first ten minutes: an empty folder, images of all sorts, a model of their own, three commands."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from slimsight.deploy.report import read_report
from slimsight.deploy.settings.recipe import Recipe, load_recipe

from ..conftest import Said

MODEL = """
import torch
import torch.nn as nn


class Block(nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride != 1 or cin != cout:
            self.down = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        identity = x if self.down is None else self.down(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.layers = nn.Sequential(Block(16, 16), Block(16, 32, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.layers(self.stem(x))), 1))


def build(num_classes=3):
    return Net(num_classes)
"""
CLASSES = ("Red cups", "blå_tallerken", "misc-2")
QUICK = (
    "export.formats=[onnx]",
    "latency.warmup_seconds=0.1",
    "model.train.epochs=12",
    "gates.steps=120",
    "finetune.epochs=4",
    "latency.rounds=20",
    "latency.sessions=2",
)


def draw_images(root: Path, each: int = 20) -> None:
    """JPEG and PNG of all sizes, a few of them grey or with transparency, and files that are no images."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(each):
            width, height = (int(side) for side in rng.integers(66, 140, 2))
            image = Image.fromarray(rng.integers(60, 120, (height, width, 3), dtype=np.uint8))
            x, y = (int(rng.integers(10, side - 42)) for side in (width, height))
            pen = ImageDraw.Draw(image)
            if label == 0:
                pen.ellipse([x, y, x + 32, y + 32], fill=(220, 30, 30))
            elif label == 1:
                pen.rectangle([x, y, x + 32, y + 32], fill=(30, 60, 230))
            else:
                pen.polygon([(x, y), (x + 32, y), (x, y + 32)], fill=(240, 230, 40))
            if number == 3 and label == 1:
                image = image.convert("L")
            if number == 5 and label == 2:
                image.putalpha(200)
            image.save(root / name / (f"IMG {number:03}.png" if number % 2 else f"img_{number:03}.JPG"))
    (root / ".DS_Store").write_bytes(b"\0")
    (root / CLASSES[0] / "Thumbs.db").write_bytes(b"\0")
    (root / CLASSES[2] / "notes.txt").write_text("buy more")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they begin: nothing but their images and their model."""
    draw_images(tmp_path / "my_images")
    (tmp_path / "my_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_commands_in_an_empty_folder(say: Callable[..., Said], folder: Path) -> None:
    said = say("init", "my_model.py:build", "my_images")
    assert said.code == 0, said.err
    for words in (
        "3 classes: Red cups 20, blå_tallerken 20, misc-2 20",
        "39 to learn from, 9 to validate, 12 to test",
        "1 of 48 looked at: grey (made RGB)",
        "1 of 48 looked at: with transparency",
        "3 other files are not read (1 .DS_Store, 1 .db, 1 .txt)",
        "guess: data.image_size: ",
        "guess: model.mean: statistics of 48 images",
        "  slimsight run recipe.yaml   ",
        "  slimsight check runs/recipe --budget budget.yaml",
    ):
        assert words in said.out
    text = (folder / "recipe.yaml").read_text()
    assert max(map(len, text.splitlines()[1:])) <= 100
    sections = re.findall(r"^([a-z]+):(?: +#.*)?$", text, re.MULTILINE)
    assert sections == [name for name in Recipe.model_fields if name in sections]  # in the order of the reference
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.data.path == folder / "my_images"
    assert recipe.model.name == f"{folder / 'my_model.py'}:build"
    assert recipe.explainer.enabled is False  # 39 images are too few to learn one
    overrides = [word for setting in QUICK for word in ("--set", setting)]

    said = say("run", "recipe.yaml", "--dry-run", *overrides)
    assert said.code == 0, said.err
    assert "3 classes at 64 px: 39 train, 9 val, 12 test" in said.out
    assert len(re.findall(r"^[a-z]+ +runs +about .* not done yet", said.out, re.MULTILINE)) == 7
    assert not (folder / "runs").exists()

    said = say("run", "recipe.yaml", *overrides)
    assert said.code == 0, said.err
    report = read_report(folder / "runs/recipe/report.json")
    assert report.slim.macs <= 0.5 * report.original.macs
    assert report.original.test_accuracy is not None
    assert report.original.test_accuracy >= 0.75

    said = say("check", "runs/recipe", "--budget", "budget.yaml")
    assert said.code == 0, said.out + said.err

    said = say("run", "recipe.yaml", "--dry-run", *overrides, "--set", "finetune.lr=0.01")
    states = dict(re.findall(r"^([a-z]+) +(runs|reused) ", said.out, re.MULTILINE))
    assert [name for name, state in states.items() if state == "reused"] == ["classifier", "gates", "surgery"]
    assert re.search(r"^finetune .* what it reads has changed", said.out, re.MULTILINE)
    assert re.search(r"^export .* follows finetune", said.out, re.MULTILINE)

    said = say("init", "my_model.py:build", "my_images")
    assert (said.code, said.error) == (
        2,
        "error: recipe.yaml exists and is kept; write elsewhere with --out, or overwrite it with --force\n",
    )


def test_the_page_says_the_commands_that_are_tried_here() -> None:
    page = Path(__file__).parents[3] / "docs/first-run.md"
    said = re.findall(r"^\$ (slimsight .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert said == [
        "slimsight init my_model.py:build my_images",
        "slimsight run recipe.yaml --dry-run",
        "slimsight run recipe.yaml",
        "slimsight check runs/recipe --budget budget.yaml",
    ]


def test_trained_weights_say_which_normalisation_they_know(say: Callable[..., Said], folder: Path) -> None:
    """Trained as a stranger trains: normalisation outside of the model, weights saved by torch."""
    script = """
import sys, numpy as np, torch
sys.path.insert(0, ".")
from pathlib import Path
from PIL import Image
from my_model import build
torch.manual_seed(0)
names = sorted(p.name for p in Path("my_images").iterdir() if p.is_dir())
files = [(p, i) for i, n in enumerate(names) for p in sorted(Path("my_images", n).glob("*[Gg]"))]
x = np.stack([np.asarray(Image.open(p).convert("RGB").resize((64, 64))) for p, _ in files])
x = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
y = torch.tensor([i for _, i in files])
net = build().train()
opt = torch.optim.Adam(net.parameters(), 3e-3)
for _ in range(40):
    some = torch.randperm(len(x))[:24]
    opt.zero_grad(); torch.nn.functional.cross_entropy(net(x[some]), y[some]).backward(); opt.step()
torch.save({"state_dict": net.state_dict()}, "my_model.pth")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    said = say("init", "my_model.py:build", "my_images", "--out", "without.yaml")
    assert "my_model.pth lies beside it: if those are its weights, say --weights my_model.pth" in said.out
    said = say("init", "my_model.py:build", "my_images", "--weights", "my_model.pth")
    assert said.code == 0, said.err
    assert re.search(r"the weights load, and get (9\d|100) % of 9 validation images right", said.out)
    assert re.search(r"(normalisation|undecided: model.mean): .*ImageNet's.*9 images held out to validate", said.out)
    recipe = load_recipe(folder / "recipe.yaml")
    assert (recipe.model.mean, recipe.model.weights) == ((0.485, 0.456, 0.406), folder / "my_model.pth")
    said = say("init", "resnet20", "my_images", "--weights", "my_model.pth", "--force")
    assert said.code == 2
    assert re.search(r"hold (none|\d) of the 114 tensors of the model's backbone", said.error)
