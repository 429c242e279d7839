"""What must hold of every module: a list of small invariants, run between steps.

Each invariant is a function that yields violations. A check that can't work on a broken graph is not run on one:
the structural checks come first, and the others only where those pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mopt.ir.invariant import Violation
from mopt.ir.module import Module
from mopt.ir.operators import check_operators, check_opsets
from mopt.ir.structure import (
    check_acyclic,
    check_initializers,
    check_node_names,
    check_outputs,
    check_scopes,
    check_sorted,
    check_ssa,
    check_uses,
)
from mopt.ir.typing_rules import check_declared, check_inferred

Invariant = Callable[[Module], Iterator[Violation]]

STRUCTURE: tuple[Invariant, ...] = (
    check_ssa,
    check_node_names,
    check_uses,
    check_outputs,
    check_initializers,
    check_acyclic,
    check_scopes,
    check_sorted,
)
"""Invariants of the graph as such."""

MEANING: tuple[Invariant, ...] = (check_opsets, check_operators, check_declared, check_inferred)
"""Invariants of what the graph says; they rely on those of the structure."""


def verify(module: Module) -> list[Violation]:
    """Check every invariant and return what is violated; an empty list for a sound module."""
    found = [violation for invariant in STRUCTURE for violation in invariant(module)]
    if not found:
        found = [violation for invariant in MEANING for violation in invariant(module)]
    return found


__all__ = ["MEANING", "STRUCTURE", "Violation", "verify"]
