"""``slimsight trust`` on the finished run, and what it is made of."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.explain import Saliency
from slimsight.compress.explain.fidelity import Estimate
from slimsight.compress.files.sealed import read_sealed
from slimsight.compress.progress import SILENT
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import read_run
from slimsight.deploy.settings.recipe import load_recipe
from slimsight.deploy.trust.estimate import estimate_seconds, work_of
from slimsight.deploy.trust.run import find_trust_subjects, measure_trust
from slimsight.deploy.trust.study import ImageLimits, TrustStudy, TrustSubject, spread_indices

from ..conftest import Said


@pytest.fixture
def session(finished: Any, cache: Path) -> Session:
    """Of the finished run; it only reads."""
    return Session(finished.recipe, read_run(finished.root), SILENT, cache)


def test_every_test_stands_in_one_file_one_table_and_pictures(
    say: Callable[..., Said], finished: Any, session: Session, tmp_path: Path
) -> None:
    out = tmp_path / "trust"
    said = say("trust", finished.root, "--with", "rbf,edges", "--images", 6, "--out", out)
    assert said.code == 0, said.err
    found = read_sealed(out / "trust.json")
    rows = {(row["explainer"], row["test"]): row for row in found["rows"]}
    tests = ("sanity", "perturbation", "insertion_deletion", "tiles")
    assert set(rows) == {(name, test) for name in ("random", "rbf", "edges") for test in tests}
    assert (found["split"], found["images"], found["control"]) == ("val", 6, "random")
    assert not rows["edges", "sanity"]["result"]["passed"]
    assert rows["rbf", "perturbation"]["result"]["kl"]["values"][0]["images"] == 6
    assert set(rows["rbf", "tiles"]["versus_control"]) == {"8", "14"}
    assert "versus_control" not in rows["random", "tiles"]
    for test in tests:
        assert (out / f"{test}.png").stat().st_size > 10_000
    lines = said.out.splitlines()
    heads = ["sanity", "Spearman at the end", "SSIM at the end", "KL, nats ↓", "change in output ↓", "insertion ↑"]
    assert [head for head in heads if head in lines[0]] == heads
    assert [line.split()[0] for line in lines[1:4]] == ["random", "rbf", "edges"]
    assert "FAILED" in lines[3]
    assert any(line.startswith("edges: sanity failed: rank correlation 1.00") for line in lines)
    written = (out / "trust.json").stat().st_mtime_ns
    assert measure_trust(session, out / "trust.json", names=["rbf", "edges"], tests=tests, count=6) == found
    assert (out / "trust.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("test", "side", "expected"),
    [
        ("sanity", 224, (1, 22)),
        ("perturbation", 224, (10, 1)),
        ("insertion_deletion", 224, (225, 1)),
        ("tiles", 224, (1567 + 511, 1)),
        ("tiles", 16, (7 + 7, 1)),
        ("boxes", 16, (1, 1)),
    ],
)
def test_the_work_of_every_test(test: str, side: int, expected: tuple[int, int]) -> None:
    work = work_of(test, side, side, steps=113, layers=21)
    assert (work.forwards, work.explanations) == expected


def test_the_estimate_counts_passes_of_the_classifier(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a 16-pixel image take 14 passes: all that are made but those for the explainer and the labels."""
    control, edges = find_trust_subjects(session, ["edges"])
    study = TrustStudy(session.classifier(), torch.rand(3, 3, 16, 16), control)
    monkeypatch.setattr("slimsight.deploy.trust.estimate._fastest", lambda work, images: 0.5)
    assert estimate_seconds(study, [("tiles", edges)]) == pytest.approx(3 * (14 + 1) * 0.5)
    assert estimate_seconds(study, [("tiles", edges), ("perturbation", control)]) == pytest.approx(3 * (15 + 11) * 0.5)


def test_what_is_tested_is_said_beforehand_and_not_where_all_is_there(
    session: Session, tiny: Path, cache: Path, notes: Any, tmp_path: Path
) -> None:
    recipe = load_recipe(tiny, ("explainer.enabled=false", "gates.steer=none"))
    unexplained = Session(recipe, session.run, notes, cache)
    for _ in range(2):
        measure_trust(unexplained, tmp_path / "t.json", names=[], tests=["perturbation"], count=2)
    why, what, *rest = notes.lines
    assert why == "this run has no explainer of its own (explainer.enabled is false); choose others with --with"
    assert re.fullmatch(
        r"trust: perturbation of gradient, beside random maps, on 2 images of val: about [\d.]+ \w+", what
    )
    assert [line for line in rest if line.startswith("trust:")] == []  # the second time both rows are there


def test_the_object_in_a_box(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[4:12, 4:12] = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\na.png,3,3,13,13\n")
    asked = ["trust", finished.root, "--with", "edges", "--tests", "boxes", "--out", tmp_path / "trust"]
    said = say(*asked, "--boxes", tmp_path / "boxes.csv")
    assert said.code == 0, said.err
    assert "in the box (chance 0.391) ↑" in said.out
    rows = {
        row["explainer"]: row["result"] for row in json.loads((tmp_path / "trust" / "trust.json").read_text())["rows"]
    }
    assert rows["edges"]["score"] == {"mean": pytest.approx(1), "standard_error": None, "images": 1}
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\na.png,3,3,17,13\n")
    said = say(*asked, "--boxes", tmp_path / "boxes.csv")
    assert (said.code, said.error.count("\n")) == (2, 1)
    assert "is empty or exceeds its image of 16 x 16 pixels" in said.error


def test_roar_by_the_runs_own_recipe(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimsight.deploy.trust.study.SHARES", (0.1, 0.9))  # a training each
    train = session.splits.train
    session.splits.train = train.subset(np.arange(0, len(train), 4))
    found = measure_trust(session, tmp_path / "t.json", names=["edges"], tests=["roar"], count=4, epochs=4)
    control, ours = found["rows"]
    shares = [0.1, 0.9]
    assert [point["share"] for point in control["result"]["points"]] == [0.0, *shares]
    assert [point["share"] for point in ours["result"]["points"]] == shares
    accuracies = [point["accuracy"]["mean"] for point in control["result"]["points"]]
    assert accuracies[0] > 0.3  # of ten classes
    assert accuracies[0] > accuracies[-1]
    assert (control["images"], control["result"]["epochs"]) == (len(session.splits.val), 4)
    assert control["result"]["train_images"] == -(-len(train) // 4)
    assert session.recipe.model.train.epochs != 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--with", "gradiant"],
            "unknown explainer 'gradiant'; did you mean 'gradient'? (choose from: centre, constant",
        ),
        (["--tests", "sanety"], "unknown test 'sanety'; did you mean 'sanity'? (choose from: sanity, perturbation"),
        (["--tests", "boxes"], "the test 'boxes' and a table of boxes need each other"),
        (["--images", "100000"], "--images 100000: the val set has"),
        (["--images", "0"], "--images 0: the val set has"),
        (["--split", "train"], "the split is 'train': choose val or test"),
        (["--with", "edges=x"], "explainer 'edges' learns nothing and takes no weights"),
    ],
)
def test_wrong_input_is_one_sentence(
    say: Callable[..., Said], finished: Any, tmp_path: Path, arguments: list[str], words: str
) -> None:
    said = say("trust", finished.root, "--out", tmp_path / "t", *arguments)
    assert (said.code, said.out) == (2, "")
    assert words in said.error
    assert said.error.count("\n") == 1
    assert not (tmp_path / "t").exists()


def test_a_file_of_something_else_is_not_overwritten(say: Callable[..., Said], finished: Any, tmp_path: Path) -> None:
    (tmp_path / "trust.json").write_text("[1]")
    said = say("trust", finished.root, "--with", "edges", "--tests", "tiles", "--images", 4, "--out", tmp_path)
    assert said.code == 2
    assert "remove it to measure its rows again, or choose another --out" in said.error
    assert (tmp_path / "trust.json").read_text() == "[1]"


def test_a_run_without_a_selector_has_no_explainer_of_its_own(finished: Any, cache: Path, tmp_path: Path) -> None:
    root = finished.unfinished(tmp_path / "run", "selector")
    session = Session(finished.recipe, read_run(root), SILENT, cache)
    assert [subject.name for subject in find_trust_subjects(session, [])] == ["random", "gradient"]
    with pytest.raises(ConfigError, match="this run has no explainer 'rbf'"):
        find_trust_subjects(session, ["rbf"])


def test_a_run_that_has_not_begun_says_so(finished: Any, cache: Path, tmp_path: Path) -> None:
    root = finished.unfinished(tmp_path / "run", "classifier")
    session = Session(finished.recipe, read_run(root), SILENT, cache)
    with pytest.raises(ConfigError, match="holds no finished classifier"):
        measure_trust(session, tmp_path / "t.json", names=["edges"], tests=["tiles"], count=4)


def test_the_amortized_explainer_keeps_its_decoder_on_another_backbone(session: Session) -> None:
    _, own = find_trust_subjects(session, ["rbf"])
    classifier, images = session.classifier(), session.some_images(6)
    labels = classifier(images).argmax(1)
    with torch.no_grad():
        _, wanted = session.explained()(images, labels)
    found = own.factory(classifier).explain(images, labels)
    torch.testing.assert_close(found.parameters, wanted)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.mul_(0.5)
    other = own.factory(classifier).explain(images, labels)
    assert not torch.allclose(other.parameters, wanted, atol=1e-2)


def test_rows_of_another_model_are_not_taken_over(session: Session, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    first = measure_trust(session, out, names=["edges"], tests=["tiles"], count=4)
    both = measure_trust(session, out, names=["constant"], tests=["tiles"], count=4)
    assert [row["explainer"] for row in both["rows"]] == ["random", "edges", "constant"]
    assert both["rows"][:2] == first["rows"]
    fewer = measure_trust(session, out, names=["edges"], tests=["tiles"], count=3)
    assert [(row["explainer"], row["images"]) for row in fewer["rows"]] == [("random", 3), ("edges", 3)]


def test_steps_fewer_images_and_explainers_of_other_runs(session: Session, tmp_path: Path) -> None:
    out, tests = tmp_path / "t.json", ("insertion_deletion", "sanity")
    _, own = find_trust_subjects(session, ["rbf"])
    other = TrustSubject("elsewhere", own.factory, own.learned)
    limits: ImageLimits = {"sanity": 4, ("sanity", "elsewhere"): 2}

    def measured(steps: int) -> dict[tuple[str, str], Any]:
        found = measure_trust(
            session, out, names=["edges"], others=[other], tests=tests, count=5, image_limits=limits, steps=steps
        )
        return {(row["explainer"], row["test"]): row for row in found["rows"]}

    rows = measured(8)
    assert [rows[name, "sanity"]["images"] for name in ("random", "edges", "elsewhere")] == [4, 4, 2]
    assert rows["elsewhere", "insertion_deletion"]["images"] == 5
    assert len(rows["elsewhere", "insertion_deletion"]["result"]["insertion"]["values"]) == 9
    again = measured(4)  # other steps are another measurement; the sanity check has none
    assert len(again["edges", "insertion_deletion"]["result"]["deletion"]["values"]) == 5
    assert again["edges", "sanity"] == json.loads(json.dumps(rows["edges", "sanity"]))  # as the file has it
    with pytest.raises(AssertionError, match="paired"):
        TrustStudy(session.classifier(), session.some_images(2), own, image_limits={("tiles", "edges"): 1})


def test_a_map_that_is_not_finite_is_refused(session: Session) -> None:
    class Broken:
        name = "broken"

        def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
            return Saliency(images.mean(1) / 0)

    random, _ = find_trust_subjects(session, ["edges"])
    study = TrustStudy(session.classifier(), session.some_images(4), random)
    with pytest.raises(DataError, match="explainer 'broken' gives a map with NaN or infinity for image 0"):
        study.row("tiles", TrustSubject("broken", lambda _: Broken()))


def test_differences_to_the_control_are_paired_by_image(session: Session) -> None:
    random, edges = find_trust_subjects(session, ["edges"])
    study = TrustStudy(session.classifier(), session.some_images(8), random)
    ours, theirs = study.row("perturbation", edges), study.row("perturbation", random)
    difference = Estimate(**ours["versus_control"]["kl"])
    assert difference.mean == pytest.approx(
        ours["result"]["kl"]["area"]["mean"] - theirs["result"]["kl"]["area"]["mean"], abs=1e-9
    )
    assert difference.images == 8


def test_fewer_images_are_spread_over_all() -> None:
    assert spread_indices(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_indices(10, 10).tolist() == list(range(10))
    assert spread_indices(10, 1).tolist() == [0]
