"""The exact selection of the smallest magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mopt.passes.prune.smallest import smallest


def _reference(arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
    flat = np.concatenate([np.abs(array.reshape(-1)).astype(np.float32) for array in arrays])
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[:count]] = True
    return np.split(mask, np.cumsum([array.size for array in arrays])[:-1])


_FLOATS = st.floats(-4, 4, width=16) | st.sampled_from([0.0, -0.0, 1e-30, 0.5, -0.5])
_ARRAY = hnp.arrays(st.sampled_from([np.float16, np.float32, np.float64]), st.integers(1, 30), elements=_FLOATS)


@settings(max_examples=150, deadline=None)
@given(st.lists(_ARRAY, min_size=1, max_size=4), st.data())
def test_marks_what_a_stable_sort_marks(arrays: list[np.ndarray], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(array.size for array in arrays)))
    masks = smallest([lambda array=array: array for array in arrays], count)  # type: ignore[misc]
    for mask, expected in zip(masks, _reference(arrays, count), strict=True):
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_ties_go_to_the_earlier_element(count: int) -> None:
    first, second = np.full(3, -2.0, np.float32), np.full(3, 2.0, np.float32)
    masks = smallest([lambda: first, lambda: second], count)
    assert np.concatenate(masks).tolist() == [True] * count + [False] * (6 - count)


def test_numbers_that_float32_can_not_hold_saturate() -> None:
    array = np.array([1e300, 1.0, 1e-300, -1e200])
    (mask,) = smallest([lambda: array], 2)
    assert mask.tolist() == [False, True, True, False]
