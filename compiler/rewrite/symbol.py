"""Symbolic sizes: integer polynomials over named dimensions, with exact floor division.

A size is a plain `int` where it is known, else an `Expr`: a polynomial with integer coefficients whose atoms are
dimension names or floor divisions that could not be carried out. Both forms are canonical, so that two sizes are
provably equal exactly when they compare equal. Sizes are taken to be positive, as every dimension of a tensor
with elements is.
"""

from __future__ import annotations

from typing import TypeAlias

Monomial: TypeAlias = tuple[str, ...]
Size: TypeAlias = "int | Expr"


class Expr:
    """A polynomial that is no plain number: `terms` maps sorted atoms to a non-zero coefficient."""

    __slots__ = ("_key", "terms")

    def __init__(self, terms: dict[Monomial, int]) -> None:
        self.terms = terms
        self._key = tuple(sorted(terms.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        parts = []
        for atoms, coefficient in self._key:
            name = "*".join(atoms)
            parts.append(str(coefficient) if not atoms else name if coefficient == 1 else f"{coefficient}*{name}")
        return " + ".join(parts)

    __repr__ = __str__


def symbol(name: str) -> Expr:
    """Return the size that is called `name`."""
    return Expr({(name,): 1})


def add(a: Size, b: Size) -> Size:
    """Return a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    terms = dict(_terms(a))
    for atoms, coefficient in _terms(b).items():
        terms[atoms] = terms.get(atoms, 0) + coefficient
    return _size(terms)


def multiply(a: Size, b: Size) -> Size:
    """Return a · b."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    terms: dict[Monomial, int] = {}
    for left, x in _terms(a).items():
        for right, y in _terms(b).items():
            atoms = tuple(sorted(left + right))
            terms[atoms] = terms.get(atoms, 0) + x * y
    return _size(terms)


def subtract(a: Size, b: Size) -> Size:
    """Return a - b."""
    return add(a, multiply(b, -1))


def product(sizes: list[Size] | tuple[Size, ...]) -> Size:
    """Return the product of sizes; 1 of none."""
    result: Size = 1
    for size in sizes:
        result = multiply(result, size)
    return result


def exact_quotient(a: Size, b: Size) -> Size | None:
    """Return a / b where b divides every term of a; None where that can't be shown."""
    if b == 0:
        return None
    if a == b:
        return 1
    divisor = _terms(b)
    if len(divisor) != 1:
        return None
    ((atoms, coefficient),) = divisor.items()
    terms: dict[Monomial, int] = {}
    for own, value in _terms(a).items():
        rest = list(own)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if value % coefficient:
            return None
        terms[tuple(rest)] = value // coefficient
    return _size(terms)


def floor_quotient(a: Size, b: Size) -> Size:
    """Return ⌊a / b⌋; ⌊(k·q + r) / k⌋ becomes q + ⌊r / k⌋, what is left an atom of its own."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    exact = exact_quotient(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and b > 0:
        whole: dict[Monomial, int] = {}
        rest: dict[Monomial, int] = {}
        for atoms, value in _terms(a).items():
            if atoms:
                (whole if value % b == 0 else rest)[atoms] = value // b if value % b == 0 else value
            else:
                whole[()], rest[()] = value // b, value % b
        inner = _size({atoms: value for atoms, value in rest.items() if value})
        outer = _size({atoms: value for atoms, value in whole.items() if value})
        return add(outer, inner // b if isinstance(inner, int) else symbol(f"⌊({inner})/{b}⌋"))
    return symbol(f"⌊({a})/({b})⌋")


def _terms(size: Size) -> dict[Monomial, int]:
    if isinstance(size, Expr):
        return size.terms
    return {(): size} if size else {}


def _size(terms: dict[Monomial, int]) -> Size:
    terms = {atoms: value for atoms, value in terms.items() if value}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Expr(terms)
