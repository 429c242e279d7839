"""Optional values: None, or the value itself."""

from __future__ import annotations

from typing import Any

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator


@operator("Optional")
def prepare_optional(call: Call) -> Compute:
    """The value, or nothing."""
    return lambda value=None: value


@operator("OptionalHasElement")
def prepare_has_element(call: Call) -> Compute:
    """Whether there is a value."""
    return lambda value=None: torch.tensor(value is not None)


@operator("OptionalGetElement")
def prepare_get_element(call: Call) -> Compute:
    """The value that must be there.

    Raises:
        ValueError: at a step at which it is not.
    """

    def compute(value: Any) -> Any:
        if value is None:
            raise ValueError("an optional value is read that is not there")
        return value

    return compute
