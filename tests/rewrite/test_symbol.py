from hypothesis import given
from hypothesis import strategies as st
from mopt.rewrite.symbol import Expr, add, exact_quotient, floor_quotient, multiply, product, subtract, symbol

N, T = symbol("N"), symbol("T")


def test_equal_sizes_compare_equal_however_they_were_computed():
    assert add(multiply(N, 2), N) == multiply(3, N)
    assert multiply(add(N, 1), add(N, -1)) == subtract(multiply(N, N), 1)
    assert subtract(N, N) == 0
    assert product([N, T, 4]) == product([4, T, N])


def test_different_sizes_do_not():
    assert N != T
    assert add(N, 1) != N


def test_exact_quotient():
    assert exact_quotient(product([N, T, 12]), multiply(N, 4)) == multiply(T, 3)
    assert exact_quotient(add(multiply(N, 4), 8), 4) == add(N, 2)
    assert exact_quotient(N, 2) is None
    assert exact_quotient(N, T) is None
    assert exact_quotient(N, 0) is None


def test_floor_quotient_takes_out_what_divides():
    assert floor_quotient(add(multiply(N, 2), 3), 2) == add(N, 1)
    assert floor_quotient(add(multiply(N, 2), 1), 2) == N
    half = floor_quotient(add(N, -1), 2)
    assert isinstance(half, Expr)
    assert floor_quotient(add(add(N, -1), 2), 2) == add(half, 1)


@given(st.integers(1, 50), st.integers(1, 9), st.integers(-20, 20), st.integers(1, 9))
def test_floor_quotient_is_right_for_every_value(n, factor, offset, divisor):
    size = floor_quotient(add(multiply(N, factor), offset), divisor)
    expected = (factor * n + offset) // divisor
    if isinstance(size, int):
        assert size == expected
        return
    value = 0
    for atoms, coefficient in size.terms.items():
        term = coefficient
        for atom in atoms:
            inner = atom.strip("⌊⌋").rsplit("/", 1) if atom != "N" else None
            term *= n if inner is None else eval(inner[0].replace("N", str(n))) // int(inner[1])
        value += term
    assert value == expected
