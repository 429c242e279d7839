"""What a pass's options refer to: data, losses, metrics, models and pipelines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from mopt.values import DataRef, LossRef, MetricRef, ModelRef


def references(value: Any) -> Iterator[Any]:
    """Yield every reference inside an option value or a plug-in instance."""
    if isinstance(value, (DataRef, LossRef, MetricRef, ModelRef)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from references(getattr(value, field.name))


def model_references(operation: Any) -> tuple[str, ...]:
    """Return the names of the models and pipelines that a pass's options refer to."""
    return tuple(dict.fromkeys(ref.name for ref in references(operation) if isinstance(ref, ModelRef)))
