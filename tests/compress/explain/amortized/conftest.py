"""What tests of amortized explainers share."""

from __future__ import annotations

import pytest

from slimsight.compress.config import PredictorConfig
from slimsight.compress.explain import Predictor, new_predictor
from slimsight.compress.models import Classifier


@pytest.fixture
def predictor(classifier: Classifier) -> Predictor:
    return new_predictor(classifier, PredictorConfig()).eval().requires_grad_(False)
