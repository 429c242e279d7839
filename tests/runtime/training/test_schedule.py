"""Rates by step."""

import pytest
from mopt.runtime.training.schedule import factor
from mopt.runtime.training.settings import Settings


def rates(total=100, **options):
    return [factor(Settings(**options), step, total) for step in range(total)]


def test_constant_linear_cosine():
    assert set(rates(schedule="constant")) == {1.0}
    assert rates(schedule="linear")[::25] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(schedule="cosine")[::25] == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_step():
    found = rates(schedule="step", drops=(0.3, 0.6), drop=0.1)
    assert [found[at] for at in (0, 29, 30, 59, 60, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_to_the_rate_and_then_the_schedule_begins(schedule):
    found = rates(schedule=schedule, warmup=0.1)
    assert found[:10] == pytest.approx([(n + 1) / 11 for n in range(10)])
    assert found[10] == max(found) == 1.0
