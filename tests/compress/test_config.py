from pathlib import Path

import pytest
from pydantic import ValidationError

from slimsight.compress.amounts import Amount
from slimsight.compress.config import (
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
            r"1 limits nothing: give a ratio to the original below 1 \(0.5 or 50%\) or 20M",
        ),
        (BudgetConfig, {"macs": 50}, "50 is neither a ratio nor a plausible amount of MACs: give a ratio"),
        (BudgetConfig, {"macs": 0}, "0 is not a valid limit on MACs: give a ratio"),
        (BudgetConfig, {"macs": "3ms"}, "'3ms' is not a valid limit on MACs"),
        (BudgetConfig, {"params": "2MB"}, "'2MB' is not a valid limit on parameters"),
        (BudgetConfig, {"size": "3ms"}, r"'3ms' is not a valid limit on bytes: .* \(2MB, 800kB, 2MiB\)"),
        (BudgetConfig, {"latency": 3}, r"3 has no unit: give a ratio .* or an amount \(3ms, 800us\)"),
        (BudgetConfig, {"latency": "3M"}, "'3M' is not a valid limit on latency"),
        (BudgetConfig, {"latency": "120%"}, "'120%' would let latency grow"),
        (BudgetConfig, {"macs": None}, "no limit is given: give at least one of macs, params, size, latency"),
        (BudgetConfig, {"align": "automatic"}, "'auto'"),
        (BudgetConfig, {"align": 0}, "greater than or equal to 1"),
        (GatesConfig, {"steps": 19}, "greater than or equal to 20"),
        (GatesConfig, {"lr": float("inf")}, "finite number"),
        (GatesConfig, {"class_weight": -1}, "greater than or equal to 0"),
        (GatesConfig, {"class_weight": 0, "steer": "none"}, "class_weight is 0 and steer is none: nothing is left"),
        (GatesConfig, {"class_weight": 0, "steer_weight": 0}, "class_weight is 0 and steer_weight is 0 too"),
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


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, {"macs": Amount(0.5, True)}),
        ({"align": 8}, {"macs": Amount(0.5, True)}),
        ({"macs": 0.01}, {"macs": Amount(0.01, True)}),
        ({"macs": 1000}, {"macs": Amount(1000, False)}),
        ({"macs": "20M", "latency": "60%"}, {"macs": Amount(20e6, False), "latency": Amount(0.6, True)}),
        ({"params": "1.2M", "size": "2 MB"}, {"params": Amount(1.2e6, False), "size": Amount(2e6, False)}),
        ({"latency": "800us"}, {"latency": Amount(0.8, False)}),
    ],
)
def test_budgets_are_ratios_or_amounts(given: dict[str, object], limits: dict[str, Amount]) -> None:
    config = BudgetConfig.model_validate(given)
    assert config.limits == limits
    assert BudgetConfig.model_validate(config.model_dump(mode="json")) == config


def test_cross_entropy_may_be_left_out_of_gates_that_steer() -> None:
    for steer in ("rbf", "realx", "magnitude"):
        assert GatesConfig.model_validate({"class_weight": 0, "steer": steer}).class_weight == 0
    assert GatesConfig().class_weight == 1


def test_finetuning_may_be_nothing() -> None:
    config = FinetuneConfig(epochs=0, recalibrate_batches=0)
    assert (config.epochs, config.recalibrate_batches) == (0, 0)
    assert config.momentum == 0.9


def test_weights_are_a_path_or_the_word_pretrained() -> None:
    assert ModelConfig.model_validate({"weights": "pretrained"}).weights == "pretrained"
    assert ModelConfig.model_validate({"weights": "w.pt"}).weights == Path("w.pt")
    assert ModelConfig().weights is None


def test_a_backbone_is_trained_by_adamw_unless_the_recipe_says_otherwise() -> None:
    plain, given = TrainConfig(), ModelConfig.model_validate({"weights": "w.pt", "head": "new"})
    assert (plain.optimizer, plain.lr, plain.weight_decay, plain.epochs) == ("sgd", 0.1, 1e-4, 20)
    train = given.train
    assert (train.optimizer, train.lr, train.weight_decay) == ("adamw", 6e-4, 0.01)
    assert (train.epochs, train.batch_size) == (8, 32)
    mine = ModelConfig.model_validate(
        {"weights": "w.pt", "head": "new", "train": {"optimizer": "sgd", "epochs": 2, "lr": 0.02}}
    ).train
    assert (mine.optimizer, mine.lr, mine.weight_decay, mine.epochs, mine.batch_size) == ("sgd", 0.02, 1e-4, 2, 32)
    assert ModelConfig.model_validate(given.model_dump(mode="json")) == given
    assert FinetuneConfig.model_validate({"optimizer": "adamw"}).lr == 6e-4
    assert (given.trained, ModelConfig().trained, ModelConfig(weights=Path("w.pt")).trained) == (True, True, False)


def test_a_new_head_needs_a_backbone() -> None:
    with pytest.raises(ValidationError, match="head is new and weights is null: give weights the backbone's file"):
        ModelConfig.model_validate({"head": "new"})
