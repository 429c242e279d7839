"""The documentation lists just the operators there are."""

from pathlib import Path

import pytest
from mopt.runtime.trainable.operator_table import operator_table, with_table

PAGE = Path(__file__).parents[3] / "docs" / "training-operators.md"


def test_page_lists_the_operators_there_are():
    page = PAGE.read_text("utf-8")
    assert page == with_table(page), "run: python -m mopt.runtime.trainable.operator_table docs/training-operators.md"


def test_every_kind_of_operator_is_in_the_table():
    table = operator_table()
    for name in ("`Conv`", "`If`", "`SequenceMap`", "`MatMulNBits`", "`LSTM`"):
        assert name in table


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="no place for the table"):
        with_table("# Operators\n")
