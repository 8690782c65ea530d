"""``slimsight trust`` on a finished run: explainers by name, images, and the file of results, which is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimsight.compress.amounts import as_duration
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
from ..report.units import plural
from ..run.fingerprints import fingerprint
from ..run.session import Session
from .estimate import estimate_seconds
from .figures import trust_table
from .study import TESTS, ImageLimits, RoarTraining, TrustStudy, TrustSubject, spread_indices

CONTROL = "random"
"""Name of the control explainer, with which all others are compared."""

TRUST_FILE = "trust.json"
DEFAULT_IMAGES = 200

_FILE_KEYS = {"schema", "classifier", "split", "images", "seed", "control", "device", "versions", "rows"}


def find_trust_subjects(session: Session, names: Sequence[str]) -> list[TrustSubject]:
    """The control and the explainers ``names``, from the registry or the run; none: the run's own, or the gradient.

    A learned explainer of the registry needs its weights: ``NAME=FILE``.

    Raises:
        ConfigError: an unknown name, or weights that are missing.
    """
    subjects = []
    own = _trained_explainer(session)
    for name in dict.fromkeys((CONTROL, *(names or (own or "gradient",)))):
        plain, given, file = name.partition("=")
        if plain in STEERING and not given:
            subjects.append(run_explainer(session, plain))
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
            subjects.append(TrustSubject(plain, partial(make_explainer, plain, weights=weights), learned))
        elif given:
            raise ConfigError(f"explainer '{plain}' learns nothing and takes no weights: leave '={file}' out")
        else:
            subjects.append(TrustSubject(plain, partial(make_explainer, plain)))
    return subjects


def _trained_explainer(session: Session) -> str | None:
    """Name of the explainer that the run has trained and uses, or None."""
    trained = session.explains and session.run.record("selector") is not None
    return session.explainer.head.kind if trained else None


def run_explainer(session: Session, name: str) -> TrustSubject:
    """The explainer that the run has trained, with its decoder, on the features of the classifier that is tested.

    Raises:
        ConfigError: the run has trained no explainer of that ``name``.
    """
    record, own = session.run.record("selector"), _trained_explainer(session)
    if record is None or own != name:
        trained = f"{session.run.root} holds that of '{own}'" if own else session.why_no_explainer
        raise ConfigError(
            f"this run has no explainer '{name}' ({trained}): give others, or let 'slimsight run' finish with "
            f"explainer.enabled=true and gates.steer={name}"
        )
    selector = session.explained().selector.to(session.fabric.device)
    return TrustSubject(
        name, lambda model: AmortizedExplainer(ExplainedClassifier(model, selector)), record.fingerprint
    )


def check_tests(names: Sequence[str], boxes: Path | None) -> tuple[str, ...]:
    """The test ``names`` without duplicates.

    Raises:
        ConfigError: an unknown test, or only one of the test ``boxes`` and a table of boxes.
    """
    for name in names:
        if name not in TESTS:
            raise ConfigError(f"unknown test '{name}'{nearest(name, list(TESTS))} (choose from: {', '.join(TESTS)})")
    if ("boxes" in names) != (boxes is not None):
        raise ConfigError("the test 'boxes' and a table of boxes need each other: give --tests boxes with --boxes FILE")
    return tuple(dict.fromkeys(names))


def sample_images(images: ImageSet, count: int, split: str) -> Tensor:
    """(count, 3, H, W) images in [0, 1], evenly spaced in the set, which is sorted by class.

    Raises:
        DataError: the set has fewer images.
    """
    if not 1 <= count <= len(images):
        raise DataError(f"--images {count}: the {split} set has {len(images)} images: give 1 to {len(images)}")
    return torch.from_numpy(images.images[spread_indices(len(images), count).numpy()]).float() / 255


def roar_training(session: Session, judged: ImageSet, epochs: int | None) -> RoarTraining:
    """ROAR's training by the run's recipe: its network from scratch by ``model.train``, tested on ``judged``."""
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
    image_limits: ImageLimits | None = None,
    steps: int = STEPS,
    skip: Collection[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Run ``tests`` on explainers of the run's original model; each row is written to ``out``, and resumed from it.

    Args:
        names: explainers; none: the run's own, or the gradient.
        count: number of images, by default up to 200; ``image_limits`` for single tests (see ``TrustStudy``).
        others: explainers that are neither the run's nor in the registry, tested last.
        steps: of insertion and of deletion.
        skip: pairs of test and explainer to leave out.
        boxes: the table for the test ``boxes``; epochs: of each of ROAR's trainings, by default the recipe's.

    Raises:
        ConfigError: an explainer or a test that cannot be run.
        DataError: more images than the set has, images too small for a test, or a map that is not finite.
        RunError: ``out`` is not writable.
    """
    tests = check_tests(tests, boxes)
    if "roar" in tests and not session.labelled:
        raise ConfigError(
            "the run's images have no labels (data.labels: none), and ROAR trains classifiers by them: leave the test "
            "'roar' out"
        )
    subjects = [*find_trust_subjects(session, names), *others]
    study, common = _open_study(session, subjects[0], tests, count, split, image_limits or {}, steps, boxes, epochs)
    head = {"schema": 1, **common, "control": CONTROL, "device": device_name(), "versions": versions()}
    rows = _read_earlier_rows(out, common)
    special: dict[str, Any] = {"boxes": _boxes_digest(study.boxes), "roar": study.training and study.training.epochs}
    if steps != STEPS:
        special["insertion_deletion"] = steps
    wanted: dict[str, tuple[str, TrustSubject]] = {}
    for subject in subjects:
        for test in (test for test in tests if (test, subject.name) not in skip):
            parts = {**common, "test": test, "used": study.count(test, subject.name), "on": special.get(test)}
            wanted[fingerprint({**parts, "explainer": subject.name, "learned": subject.learned})] = (test, subject)
    pairs = {(test, subject.name) for test, subject in wanted.values()}
    rows = {key: row for key, row in rows.items() if key in wanted or (row["test"], row["explainer"]) not in pairs}
    left = [pair for key, pair in wanted.items() if key not in rows]
    if left:
        _announce(session, study, subjects, left, split, chosen=bool(names))
    for key, (test, subject) in wanted.items():
        if key in rows:
            session.progress.note(f"{test} of {subject.name}: taken from {out}")
            continue
        rows[key] = {"key": key, **study.row(test, subject)}
        write_sealed(out, {**head, "rows": list(rows.values())})
        session.progress.note(f"{test} of {subject.name}: {as_duration(rows[key]['seconds'])}")
    return {**head, "rows": list(rows.values())}


_LONG = 60.0
"""Seconds above which the announcement says how to take less."""


def _announce(
    session: Session,
    study: TrustStudy,
    subjects: Sequence[TrustSubject],
    left: Sequence[tuple[str, TrustSubject]],
    split: str,
    *,
    chosen: bool,
) -> None:
    """Say what will be tested, on how many images, and for about how long."""
    named = ", ".join(subject.name for subject in subjects[1:]) or "none"
    if not chosen and _trained_explainer(session) is None:
        session.progress.note(
            f"this run has no explainer of its own ({session.why_no_explainer}); choose others with --with"
        )
    tests = ", ".join(dict.fromkeys(test for test, _ in left))
    seconds = estimate_seconds(study, left)
    shorter = "; fewer --images or --tests take less" if seconds > _LONG else ""
    session.progress.note(
        f"trust: {tests} of {named}, beside {CONTROL} maps, on {plural(len(study.images), 'image')} of {split}: about "
        f"{as_duration(seconds)}{shorter}"
    )


def _open_study(
    session: Session,
    control: TrustSubject,
    tests: Sequence[str],
    count: int | None,
    split: str,
    image_limits: ImageLimits,
    steps: int,
    boxes: Path | None,
    epochs: int | None,
) -> tuple[TrustStudy, dict[str, Any]]:
    """The study, and the values that all its rows share."""
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
        image_limits=image_limits,
        steps=steps,
        boxes=None if boxes is None else load_boxes(boxes, session.preprocessing),
        training=roar_training(session, judged, epochs) if "roar" in tests else None,
        progress=session.progress,
    )
    return study, {"classifier": record.fingerprint, "split": split, "images": count, "seed": study.seed}


def _boxes_digest(boxes: BoxedImages | None) -> str | None:
    """A SHA-256 over boxes and images."""
    if boxes is None:
        return None
    return hashlib.sha256(boxes.boxes.numpy().tobytes() + boxes.images.numpy().tobytes()).hexdigest()


def _read_earlier_rows(out: Path, common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows in ``out`` that were measured on the same model and images, by key."""
    try:
        earlier = read_sealed(out, older=True)
        if not earlier.keys() <= _FILE_KEYS:
            raise Damaged(out, "was changed since it was written")
        rows = {str(row["key"]): row for row in earlier["rows"]}
        trust_table(earlier["rows"])  # rows that cannot be shown are not of this command
    except FileNotFoundError:
        return {}
    except Damaged as damage:
        raise damage.remedied("remove it to measure its rows again, or choose another --out") from damage
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:
        raise ConfigError(f"{out} exists and has no rows of this command; choose another --out") from error
    return rows if all(earlier.get(name) == value for name, value in common.items()) else {}
