"""The interface of a module: what a caller sees, and whether a step left it alone."""

from __future__ import annotations

from dataclasses import dataclass

from mopt.ir.module import Module, TensorInfo


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs, in order."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def interface_of(module: Module) -> Interface:
    """Return the interface of a module."""
    return Interface(module.inputs, module.outputs)


def interface_changes(before: Interface, after: Interface, *, dtypes_may_change: bool = False) -> list[str]:
    """Say how two interfaces differ; an empty list where callers can't tell them apart.

    Names, order, element types and ranks must be equal, and dimensions where both are numbers. A dimension that
    became known, or goes by another name, is no change; a dynamic input that became a number is one.
    """
    changes: list[str] = []
    for kind, old, new in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        if [info.name for info in old] != [info.name for info in new]:
            changes.append(f"{kind}s were {_names(old)}, now {_names(new)}")
            continue
        for first, second in zip(old, new, strict=True):
            same_type = dtypes_may_change or first.dtype == second.dtype or "?" in (first.dtype, second.dtype)
            if not same_type or _reshaped(first, second, fixed=kind == "input"):
                changes.append(f"{kind} was {first}, now {second}")
    return changes


def _reshaped(old: TensorInfo, new: TensorInfo, *, fixed: bool) -> bool:
    if not old.ranked or not new.ranked:
        return False
    if len(old.shape) != len(new.shape):
        return True
    for a, b in zip(old.shape, new.shape, strict=True):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            return True
        if fixed and not isinstance(a, int) and isinstance(b, int):
            return True
    return False


def _names(infos: tuple[TensorInfo, ...]) -> str:
    return ", ".join(f"`{info.name}`" for info in infos) or "none"
