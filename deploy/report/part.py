"""What every part of report.json is made of."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from slimsight.compress.config import NonNegative, Section

Share = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=0)]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measured = Annotated[NonNegative | None, BeforeValidator(_finite_or_none)]  # None: NaN or infinite, never a pass


class Part(Section):
    """A part of the report. Figures not taken are left out of the JSON where optional, else null."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # so that writing refuses them; not a silent null

    @model_serializer(mode="wrap")
    def _leave_out_what_was_not_taken(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = {field.alias or name: field for name, field in type(self).model_fields.items()}
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or fields[key].is_required()}
