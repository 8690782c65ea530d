from pathlib import Path

import pytest
from pydantic import ValidationError

from compress.config import (
    BudgetConfig,
    DataConfig,
    ExplainerConfig,
    FinetuneConfig,
    GatesConfig,
    MaskConfig,
    ModelConfig,
    PredictorConfig,
    Section,
    SelectorConfig,
    TrainConfig,
)

SECTIONS = [
    BudgetConfig,
    DataConfig,
    ExplainerConfig,
    FinetuneConfig,
    GatesConfig,
    MaskConfig,
    ModelConfig,
    PredictorConfig,
    SelectorConfig,
    TrainConfig,
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_sections_are_frozen_closed_and_valid_by_default(section: type[Section]) -> None:
    made = section()
    assert section.model_validate(made.model_dump()) == made
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, next(iter(section.model_fields)), None)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section.model_validate({"unknown": 1})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            DataConfig,
            {"source": "image_tree"},
            "source 'image_tree' needs 'path': the folder that holds the images",
        ),
        (
            DataConfig,
            {"source": "image_folder", "path": "x"},
            "needs 'image_size': the side in pixels, e.g. 224",
        ),
        (DataConfig, {"source": "imagenet"}, "'digits', 'image_tree', 'cifar10_batches' or 'image_folder'"),
        (DataConfig, {"val_fraction": 1}, "less than 1"),
        (DataConfig, {"image_size": 7}, "greater than or equal to 8"),
        (
            BudgetConfig,
            {"macs": 1},
            r"macs is 1: give the ratio to keep \(below 1, e.g. 0.5\) or a number of MACs",
        ),
        (BudgetConfig, {"macs": 50}, "macs is 50: give the ratio"),
        (BudgetConfig, {"macs": 0}, "greater than 0"),
        (BudgetConfig, {"align": 0}, "greater than or equal to 1"),
        (GatesConfig, {"steps": 19}, "greater than or equal to 20"),
        (GatesConfig, {"lr": float("inf")}, "finite number"),
        (TrainConfig, {"epochs": 0}, "greater than or equal to 1"),
        (TrainConfig, {"momentum": 1}, "less than 1"),
        (ModelConfig, {"std": [1, 0, 1]}, "greater than 0"),
        (MaskConfig, {"sigma": [5]}, "Field required"),
        (FinetuneConfig, {"distill": 1.01}, "less than or equal to 1"),
    ],
)
def test_values_out_of_range_are_refused(section: type[Section], values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


@pytest.mark.parametrize("macs", [0.01, 0.999, 1000, 20e6])
def test_a_budget_is_a_ratio_or_a_number(macs: float) -> None:
    assert BudgetConfig(macs=macs).macs == macs


def test_finetuning_may_be_nothing() -> None:
    config = FinetuneConfig(epochs=0, recalibrate_batches=0)
    assert (config.epochs, config.recalibrate_batches) == (0, 0)
    assert config.momentum == 0.9


def test_weights_are_a_path_or_the_word_pretrained() -> None:
    assert ModelConfig.model_validate({"weights": "pretrained"}).weights == "pretrained"
    assert ModelConfig.model_validate({"weights": "w.pt"}).weights == Path("w.pt")
    assert ModelConfig().weights is None
