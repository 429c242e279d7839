"""`require`: arithmetic, comparison, and what can't be measured."""

import pytest
from mopt.build.requirements import UnmeasuredError, decide, measures
from mopt.recipe import Binary, Measure, Number, Place, Requirement
from mopt.values import Ratio

PLACE = Place("r.mopt", 1, 1)
VALUES = {(None, "cer"): 0.06, ("original", "cer"): 0.05, (None, "size"): 300.0, ("original", "size"): 1000.0}


def value(pipeline, name):
    if (pipeline, name) not in VALUES:
        raise UnmeasuredError(f"no {name}")
    return VALUES[pipeline, name]


def number(value):
    return Number(value, str(value))


def requirement(left, operator, right):
    return Requirement(left, operator, right, "text", PLACE)


@pytest.mark.parametrize(
    ("left", "operator", "right", "held"),
    [
        (Measure(None, "cer"), "<=", Binary("+", Measure("original", "cer"), number(Ratio(0.01))), True),
        (Measure(None, "cer"), "<=", Binary("+", Measure("original", "cer"), number(Ratio(0.005))), False),
        (Measure(None, "size"), "<=", Binary("*", number(Ratio(0.3)), Measure("original", "size")), True),
        (Measure(None, "size"), "<", Binary("*", number(Ratio(0.3)), Measure("original", "size")), False),
        (Binary("/", Measure(None, "size"), Measure("original", "size")), ">", number(0.2), True),
        (Binary("-", Measure(None, "size"), number(300)), "==", number(0), True),
        (Measure(None, "size"), "!=", number(300), False),
    ],
)
def test_decided(left, operator, right, held):
    result = decide(requirement(left, operator, right), value)
    assert result.held is held
    assert result.left is not None


def test_unmeasured_is_neither_held_nor_failed():
    result = decide(requirement(Measure(None, "latency"), "<", number(1)), value)
    assert result.held is None
    assert result.reason == "no latency"


def test_division_by_zero_fails_with_a_reason():
    result = decide(requirement(Binary("/", number(1), number(0)), "<", number(1)), value)
    assert result.held is False
    assert "zero" in result.reason


def test_measures_are_found_once():
    twice = Binary("+", Measure("a", "cer"), Measure("a", "cer"))
    assert measures(requirement(Measure(None, "cer"), "<", twice)) == (Measure(None, "cer"), Measure("a", "cer"))
