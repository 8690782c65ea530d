"""``slimsight trust`` on a finished run: its explainers by name, its images, and a file of rows that is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimsight.compress.data import ImageSet
from slimsight.compress.data.boxes import BoxedImages, load_boxes
from slimsight.compress.errors import ConfigError, Damaged, DataError
from slimsight.compress.explain import (
    EXPLAINERS,
    STEERING,
    AmortizedExplainer,
    ExplainedClassifier,
    make_explainer,
    needs_weights,
)
from slimsight.compress.explain.fidelity import STEPS
from slimsight.compress.files.sealed import read_sealed, write_sealed
from slimsight.compress.finetune import train_classifier
from slimsight.compress.models import Classifier, build_classifier
from slimsight.compress.registry import nearest
from slimsight.compress.training import Learning

from ..machine import device_name, versions
from ..run.fingerprints import fingerprint
from ..run.session import Session
from .figures import trust_table
from .study import TESTS, ImageLimits, RoarTraining, TrustStudy, TrustSubject, spread_indices

CONTROL = "random"
"""Tested beside every explainer."""

TRUST_FILE = "trust.json"
DEFAULT_IMAGES = 200

_FILE_KEYS = {"schema", "classifier", "split", "images", "seed", "control", "device", "versions", "rows"}


def find_trust_subjects(session: Session, names: Sequence[str]) -> list[TrustSubject]:
    """The control, then the explainers called ``names``: of the registry, or the run's own.

    A learned explainer of the registry is given with its weights, ``NAME=FILE``.

    Raises:
        ConfigError: an unknown name, or weights that are missing.
    """
    found = []
    own = _trained_explainer(session)
    for name in dict.fromkeys((CONTROL, *(names or (own or "gradient",)))):
        plain, given, file = name.partition("=")
        if plain in STEERING and not given:
            found.append(run_explainer(session, plain))
        elif plain not in EXPLAINERS:
            choices = sorted({*EXPLAINERS, *STEERING})
            raise ConfigError(
                f"unknown explainer '{plain}'{nearest(plain, choices)} (choose from: {', '.join(choices)})"
            )
        elif needs_weights(plain):
            weights = Path(file)
            if not given or not weights.is_file():
                what = f"there is no file {file}" if given else "it is learned"
                raise ConfigError(f"explainer '{plain}': {what}; give its weights with --with {plain}=FILE")
            learned = hashlib.sha256(weights.read_bytes()).hexdigest()
            found.append(TrustSubject(plain, partial(make_explainer, plain, weights=weights), learned))
        elif given:
            raise ConfigError(f"explainer '{plain}' learns nothing and takes no weights: leave '={file}' out")
        else:
            found.append(TrustSubject(plain, partial(make_explainer, plain)))
    return found


def _trained_explainer(session: Session) -> str | None:
    """The explainer that the run has trained."""
    return session.explainer.head.kind if session.run.record("selector") is not None else None


def run_explainer(session: Session, name: str) -> TrustSubject:
    """The run's explainer. Its decoder stays as it is; it reads the features of the classifier that it is given.

    Raises:
        ConfigError: the run has trained no explainer of that ``name``.
    """
    record = session.run.record("selector")
    if record is None or _trained_explainer(session) != name:
        raise ConfigError(
            f"this run has no explainer '{name}' ({session.run.root} has {_describe_trained_explainer(session)}): "
            f"take others, or let 'slimsight run' finish with explainer.enabled=true and gates.steer={name}"
        )
    selector = session.explained().selector.to(session.fabric.device)
    return TrustSubject(
        name, lambda model: AmortizedExplainer(ExplainedClassifier(model, selector)), record.fingerprint
    )


def _describe_trained_explainer(session: Session) -> str:
    own = _trained_explainer(session)
    return f"that of '{own}'" if own else "no finished selector"


def check_tests(names: Sequence[str], boxes: Path | None) -> tuple[str, ...]:
    """``names`` of tests, each once.

    Raises:
        ConfigError: an unknown test, or boxes without the test, or the test without boxes.
    """
    for name in names:
        if name not in TESTS:
            raise ConfigError(f"unknown test '{name}'{nearest(name, list(TESTS))} (choose from: {', '.join(TESTS)})")
    if ("boxes" in names) != (boxes is not None):
        raise ConfigError("the test 'boxes' and a table of boxes belong together: give --tests boxes with --boxes FILE")
    return tuple(dict.fromkeys(names))


def sample_images(images: ImageSet, count: int, split: str) -> Tensor:
    """(count, 3, H, W) images in [0, 1], spread over the classes.

    Raises:
        DataError: there are not as many.
    """
    if not 1 <= count <= len(images):
        raise DataError(
            f"{count} images were asked for; the {split} set has {len(images)}: give --images from 1 to that"
        )
    return torch.from_numpy(images.images[spread_indices(len(images), count).numpy()]).float() / 255


def roar_training(session: Session, judged: ImageSet, epochs: int | None) -> RoarTraining:
    """ROAR by the run's own recipe: its network from scratch, trained as ``model.train`` says, tested on ``judged``."""
    recipe = session.recipe
    config = recipe.model.train if epochs is None else recipe.model.train.model_copy(update={"epochs": epochs})

    def learn(model: Classifier, images: ImageSet) -> None:
        batches = session.shuffled(images, config.batch_size, crop=True, flip=True)
        train_classifier(
            model, batches, Learning(session.fabric, progress=session.progress), config=config, what="roar"
        )

    plain = recipe.model.model_copy(update={"weights": None})
    build = partial(build_classifier, plain, len(session.splits.classes))
    return RoarTraining(build, learn, session.splits.train, judged, config.epochs)


def measure_trust(
    session: Session,
    out: Path,
    *,
    names: Sequence[str],
    tests: Sequence[str],
    count: int | None = None,
    split: str = "val",
    boxes: Path | None = None,
    epochs: int | None = None,
    others: Sequence[TrustSubject] = (),
    fewer: ImageLimits | None = None,
    steps: int = STEPS,
    skip: Collection[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Run ``tests`` on explainers of the run's original; rows go to ``out`` as they come, and are resumed from it.

    Args:
        names: of explainers; none: the run's own, or the gradient.
        count: images, by default up to 200; ``fewer`` for single tests (see ``TrustStudy``).
        others: explainers that are not the run's and that no registry makes, tested last.
        steps: of insertion and of deletion.
        skip: pairs of test and explainer to leave out.
        boxes: the table for the test ``boxes``; epochs: of each of ROAR's trainings, by default the recipe's.

    Raises:
        ConfigError: explainers or tests that cannot be run.
        DataError: more images than there are, images too small for a test, or a map that is not finite.
        RunError: ``out`` cannot be written.
    """
    tests = check_tests(tests, boxes)
    subjects = [*find_trust_subjects(session, names), *others]
    study, common = _open_study(session, subjects[0], tests, count, split, fewer or {}, steps, boxes, epochs)
    head = {"schema": 1, **common, "control": CONTROL, "device": device_name(), "versions": versions()}
    kept = _read_earlier_rows(out, common)
    special: dict[str, Any] = {"boxes": _boxes_digest(study.boxes), "roar": study.training and study.training.epochs}
    if steps != STEPS:
        special["insertion_deletion"] = steps
    wanted: dict[str, tuple[str, TrustSubject]] = {}
    for subject in subjects:
        for test in (test for test in tests if (test, subject.name) not in skip):
            parts = {**common, "test": test, "used": study.count(test, subject.name), "on": special.get(test)}
            wanted[fingerprint({**parts, "explainer": subject.name, "learned": subject.learned})] = (test, subject)
    asked = {(test, subject.name) for test, subject in wanted.values()}
    kept = {key: row for key, row in kept.items() if key in wanted or (row["test"], row["explainer"]) not in asked}
    for key, (test, subject) in wanted.items():
        if key in kept:
            session.progress.note(f"{test} of {subject.name}: taken from {out}")
            continue
        kept[key] = {"key": key, **study.row(test, subject)}
        write_sealed(out, {**head, "rows": list(kept.values())})
        session.progress.note(f"{test} of {subject.name}: {kept[key]['seconds']:.0f} s")
    return {**head, "rows": list(kept.values())}


def _open_study(
    session: Session,
    control: TrustSubject,
    tests: Sequence[str],
    count: int | None,
    split: str,
    fewer: ImageLimits,
    steps: int,
    boxes: Path | None,
    epochs: int | None,
) -> tuple[TrustStudy, dict[str, Any]]:
    """The study, and what all its rows have in common."""
    record = session.run.record("classifier")
    if record is None:
        raise ConfigError(f"{session.run.root} holds no finished classifier: let 'slimsight run' go on first")
    judged = session.splits.val if split == "val" else session.splits.test()
    count = min(DEFAULT_IMAGES, len(judged)) if count is None else count
    study = TrustStudy(
        session.classifier().to(session.fabric.device),
        sample_images(judged, count, split),
        control,
        seed=session.recipe.seed,
        fewer=fewer,
        steps=steps,
        boxes=None if boxes is None else load_boxes(boxes, session.splits.image_size),
        training=roar_training(session, judged, epochs) if "roar" in tests else None,
        progress=session.progress,
    )
    return study, {"classifier": record.fingerprint, "split": split, "images": count, "seed": study.seed}


def _boxes_digest(boxes: BoxedImages | None) -> str | None:
    """Changes with the boxes and the images that they are in."""
    if boxes is None:
        return None
    return hashlib.sha256(boxes.boxes.numpy().tobytes() + boxes.images.numpy().tobytes()).hexdigest()


def _read_earlier_rows(out: Path, common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run on the same model and images, by key."""
    try:
        found = read_sealed(out, older=True)
        if not found.keys() <= _FILE_KEYS:
            raise Damaged(out, "was changed since it was written")
        rows = {str(row["key"]): row for row in found["rows"]}
        trust_table(found["rows"])  # what cannot be shown was written by somebody else
    except FileNotFoundError:
        return {}
    except Damaged as damage:
        raise damage.remedied("remove it to measure its rows again, or choose another --out") from damage
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:
        raise ConfigError(f"{out} is there and holds no rows of this command; choose another --out") from error
    return rows if all(found.get(name) == value for name, value in common.items()) else {}
