"""`require`: a condition over measured quantities, decided at its place in a pipeline."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Final

from mopt.build.rows import RequirementResult
from mopt.recipe import Binary, Expression, Measure, Number, Requirement

Value = Callable[[str | None, str], float]
"""Gives a measure: of a pipeline by name, or (None) of the point where the condition stands."""

_ARITHMETIC: Final = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_COMPARISON: Final = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}


class UnmeasuredError(Exception):
    """A quantity can't be measured on this machine; the message says why."""


def decide(requirement: Requirement, value: Value) -> RequirementResult:
    """Decide a condition. One that needs what can't be measured here is neither held nor failed."""
    try:
        left, right = _number(requirement.left, value), _number(requirement.right, value)
    except UnmeasuredError as error:
        return RequirementResult(requirement.text, None, reason=str(error))
    except ZeroDivisionError:
        return RequirementResult(requirement.text, False, reason="it divides by zero")
    held = bool(_COMPARISON[requirement.operator](left, right))
    return RequirementResult(requirement.text, held, left, right)


def measures(requirement: Requirement) -> tuple[Measure, ...]:
    """Return every measure a condition names."""

    def walk(expression: Expression) -> tuple[Measure, ...]:
        match expression:
            case Measure():
                return (expression,)
            case Binary():
                return (*walk(expression.left), *walk(expression.right))
        return ()

    return tuple(dict.fromkeys((*walk(requirement.left), *walk(requirement.right))))


def _number(expression: Expression, value: Value) -> float:
    match expression:
        case Number():
            return float(expression.value)
        case Measure():
            return float(value(expression.pipeline, expression.name))
        case Binary():
            left, right = _number(expression.left, value), _number(expression.right, value)
            return float(_ARITHMETIC[expression.operator](left, right))
