"""Quantisation-aware training of an INT8 file: from its calibrated ranges, towards the logits of its FP32 file.

What is trained is the file's own graph (``trainable``), by ``fit`` with distillation (Hinton et al. 2015). The best
epoch on validation images is kept; where none is better than the calibrated file, that stays as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.config import FinetuneConfig
from slimsight.compress.data import BatchSource, one_pass
from slimsight.compress.errors import ExportError
from slimsight.compress.finetune import train_classifier
from slimsight.compress.training import Learning, Validation, logits_of

from ..config import QatConfig
from ..onnx_files.graph import read_onnx
from ..runners.inputs import read_input
from .fidelity import compare_fidelity
from .prepare import prepare
from .prove import AGREEMENT_LIMIT, P99_LIMIT, OnnxLogits, RuntimeProof, judge_runtime
from .quantise import Quantiser, write_quantised
from .torch_graph import check_operators, read_graph
from .trainable import TrainableInt8

AS_TRAINED: Final = "pytorch, as trained"
"""What the proof calls the trained model, beside the runtimes."""

_BATCH: Final = 16
_MOVED: Final = 1e-6

PROVEN_IMAGES: Final = 128
"""Validation images at most, on which the file is compared with the model that was trained."""


@dataclass(frozen=True)
class Qat:
    """A training as it is asked for.

    Args:
        train: shuffled batches of training images; labels are read where ``config.distill`` is below 1.
        validation: batches that choose the epoch; never those that later figures are taken on alone.
        labelled: whether the validation images' labels say what is right; else the FP32 file's classes do.
    """

    config: QatConfig
    train: BatchSource
    validation: BatchSource
    learning: Learning
    labelled: bool = True

    @property
    def score(self) -> str:
        """What the share of right predictions is called."""
        return "accuracy" if self.labelled else "agreement"


@dataclass(frozen=True)
class QatScore:
    """On the validation images: share of right predictions, and KL divergence from the FP32 file's softmax (nats)."""

    right: float
    divergence: float

    def better_than(self, other: QatScore) -> bool:
        """By right predictions; where they are as many, by divergence."""
        return (self.right, -self.divergence) > (other.right, -other.divergence)


@dataclass(frozen=True)
class QatResult:
    """What a training brought. ``kept``: its best epoch is better than the calibrated file, and is written.

    ``score``: ``accuracy``, or ``agreement`` with the FP32 file; ``before``: of the calibrated file; ``after``: of the
    best epoch, ``best_epoch`` of ``epochs``, from 1; ``proof``: the file against the trained model, None: not kept.
    """

    score: str
    epochs: int
    best_epoch: int
    before: QatScore
    after: QatScore
    kept: bool
    proof: RuntimeProof | None = None

    def to_dict(self) -> dict[str, Any]:
        """``qat`` of a file in report.json; the proof is a row of its runtimes."""
        return {name: value for name, value in asdict(self).items() if name != "proof"}


def train_int8_(quantiser: Quantiser, qat: Qat, *, what: str = "qat") -> QatResult:
    """Train a file's weights and scales with rounding; ``quantiser`` makes files of the best epoch, if it is better.

    Args:
        what: name of the training, for messages and its checkpoint.

    Raises:
        ExportError: the file has operators that cannot be trained.
        TrainingError: the loss is NaN or infinite.
    """
    learning, exact = qat.learning, quantiser.exact.graph
    source = quantiser.source.name
    model = TrainableInt8(read_graph(quantiser.to_graph().graph, exact, source)).to(learning.device)
    teacher = TrainableInt8(read_graph(exact, exact, source)).to(learning.device)
    reference = logits_of(teacher, qat.validation, device=learning.device)
    labels = torch.cat(one_pass(qat.validation, lambda _, batch: batch.labels))
    right = labels if qat.labelled else reference.argmax(1)

    def measure() -> QatScore:
        return _score(logits_of(model, qat.validation, device=learning.device), reference, right)

    def validate() -> Validation:
        found = measure()
        figures = {f"val_{qat.score}": found.right, "val_divergence": found.divergence}
        return Validation(found.divergence, figures, excess=1 - found.right)

    before = measure()
    history = train_classifier(
        model,
        qat.train,
        learning,
        config=_training(qat.config),
        teacher=teacher,
        what=what,
        score=qat.score,
        validate=validate,
    )
    after = measure()
    best = history.best_epoch + 1
    if not after.better_than(before):
        return QatResult(qat.score, qat.config.epochs, best, before, after, kept=False)
    quantiser.retrain_(model.trained(), best)
    return QatResult(qat.score, qat.config.epochs, best, before, after, kept=True, proof=_prove(quantiser, model, qat))


def check_trainable(fp32: Path, name: str) -> None:
    """Check that an FP32 file can be trained here; ``name``: what messages call it.

    Raises:
        ExportError: it takes a fixed number of images, or has operators that are not known here; or ONNX Runtime cannot
            open it.
    """
    if (batch := read_input(fp32).batch) is not None:
        raise ExportError(
            f"{name} takes {batch} images a call: quantisation-aware training needs a file that takes any number; "
            "export it so, or leave the training out"
        )
    with TemporaryDirectory(prefix="slimsight-int8-") as folder:
        check_operators(read_onnx(prepare(read_onnx(fp32), fp32, Path(folder))).graph, name)


def _score(logits: Tensor, reference: Tensor, right: Tensor) -> QatScore:
    divergence = F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True)
    return QatScore(float((logits.argmax(1) == right).float().mean()), float(divergence))


def _training(config: QatConfig) -> FinetuneConfig:
    """The schedule of ``config``, by AdamW without decay: decayed weights would lose what FP32 learned."""
    given = config.model_dump(include={"epochs", "lr", "batch_size", "distill", "distill_temperature", "mixup"})
    return FinetuneConfig(optimizer="adamw", weight_decay=0.0, **given)


def _prove(quantiser: Quantiser, model: nn.Module, qat: Qat) -> RuntimeProof:
    """The file with all layers in INT8, by its own arithmetic, against the model that was trained."""
    parts: list[Tensor] = []
    for batch in qat.validation.epoch(0):
        parts.append(batch.images)
        if sum(map(len, parts)) >= PROVEN_IMAGES:
            break
    images = torch.cat(parts)[:PROVEN_IMAGES]
    images = images.float().div_(255) if images.dtype == torch.uint8 else images
    trial = write_quantised(quantiser.to_graph(), quantiser.folder / "trained.onnx", quantiser.scheme)
    run = OnnxLogits(trial.path, optimised=False)
    own, moved = run(images.numpy()), run((images * (1 + _MOVED)).numpy())
    with torch.inference_mode():
        logits = torch.cat([model(part.to(qat.learning.device)).cpu() for part in torch.split(images, _BATCH)])
    return judge_trained(own, moved, logits.numpy())


def judge_trained(own: NDArray[Any], moved: NDArray[Any], logits: NDArray[Any]) -> RuntimeProof:
    """The proof of a file against the model that was trained, from its logits (N, classes) and the model's.

    Both round sums in another order. A network that INT8 has nearly ruined amplifies that without bound: where the
    file's own logits move by as much when its images move by a millionth (``moved``), twice that is allowed.
    """
    found = judge_runtime(AS_TRAINED, own, logits)
    noise = compare_fidelity(own, moved)
    within = found.p99 <= max(P99_LIMIT, 2 * noise.p99)
    agrees = 1 - found.agreement <= max(1 - AGREEMENT_LIMIT, 2 * (1 - noise.agreement)) + 1e-9
    return replace(found, passed=True, why=None) if within and agrees and np.isfinite(logits).all() else found
