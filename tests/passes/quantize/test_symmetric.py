"""Symmetric 8-bit quantisation of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mopt.passes.quantize.symmetric import quantize

_ARRAYS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-1e4, 1e4, width=32)
)


@settings(max_examples=150, deadline=None)
@given(_ARRAYS, st.booleans(), st.sampled_from([(0,), (1,), (0, 1)]))
def test_error_is_at_most_half_a_step(array: np.ndarray, signed: bool, axes: tuple[int, ...]) -> None:
    found = quantize(array, axes, signed)
    restored = (found.values.astype(np.float64) - int(found.zero_point)) * found.scale
    assert np.all(np.abs(restored - array) <= found.scale * 0.5001 + 1e-30)
    assert np.all(restored[array == 0] == 0)
    assert found.values.dtype == (np.int8 if signed else np.uint8)


def test_both_storages_hold_the_same_numbers() -> None:
    array = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    signed, unsigned = quantize(array, (0,), True), quantize(array, (0,), False)
    np.testing.assert_array_equal(signed.values.astype(int), unsigned.values.astype(int) - 128)
    np.testing.assert_array_equal(signed.scale, unsigned.scale)


@pytest.mark.parametrize("value", [0.0, 1e-44])
def test_slices_without_a_scale_are_zeros(value: float) -> None:
    found = quantize(np.full((2, 3), value, np.float32), (1,), True)
    assert not found.values.any()
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()
