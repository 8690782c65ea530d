from typing import Any

import pytest

from slimsight.deploy.report.schema import Report


@pytest.fixture
def report(content: dict[str, Any]) -> Report:
    return Report.model_validate(content)
