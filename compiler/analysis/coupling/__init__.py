"""Axis coupling: which indices of which axes must be cut together, and which can't be cut, with the reason.

After the dependency graph of Fang et al. 2023, DepGraph: Towards Any Structural Pruning (arXiv:2301.12900), on ONNX
operators and by index rather than by whole axis.
"""

from __future__ import annotations

from mopt.analysis.coupling.analysis import couplings
from mopt.analysis.coupling.couplings import Axis, Couplings
from mopt.analysis.coupling.groups import Group, Member, collect
from mopt.ir import Module


def groups(module: Module) -> list[Group]:
    """Return the groups of a module, in the order of its initializers; the module is not changed."""
    return collect(couplings(module.clone()))


__all__ = ["Axis", "Couplings", "Group", "Member", "collect", "couplings", "groups"]
