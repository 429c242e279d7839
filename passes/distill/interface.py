"""Which inputs and outputs of a student and its teacher belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mopt.passes.contract import PassError

if TYPE_CHECKING:
    from mopt.ir import Module, TensorInfo


@dataclass(frozen=True)
class Pair:
    """An output of the student and the one of the teacher that it is compared with."""

    student: TensorInfo
    teacher: TensorInfo


def matched_inputs(student: Module, teacher: Module, name: str, declared: Mapping[str, str]) -> dict[str, str]:
    """Return the student's input that feeds each of the teacher's.

    Args:
        name: what the recipe calls the teacher.
        declared: the student's input → the teacher's, where the names differ.

    Raises:
        PassError: one has no counterpart, or another shape or kind.
    """
    mine = {info.name: info for info in student.inputs}
    theirs = {info.name: info for info in teacher.inputs}
    _declared_exist(declared, mine, theirs, "input", name)
    back = {theirs_: mine_ for mine_, theirs_ in declared.items()}
    found = {}
    for info in teacher.inputs:
        own = back.get(info.name, info.name)
        if own not in mine or (own in declared and info.name not in back):
            raise PassError(
                f"the teacher `{name}` takes {_listed(teacher.inputs)}, and the student {_listed(student.inputs)}: "
                f"nothing feeds the teacher's `{info.name}`",
                help="where only names differ, say so: `inputs="
                f'{{{_key(student.inputs[0].name)}: "{info.name}"}}`, the student\'s first'
                if student.inputs
                else None,
            )
        _check_fit(mine[own], info, "input", name, free=(0,))
        found[info.name] = own
    return found


def matched_outputs(
    student: Module, teacher: Module, name: str, declared: Mapping[str, str], *, free: tuple[int, ...] = ()
) -> tuple[Pair, ...]:
    """Return the outputs to compare: those declared; else those of one name; else the only ones.

    Args:
        free: axes that may have different sizes.

    Raises:
        PassError: there is nothing to compare, or shapes differ.
    """
    mine = {info.name: info for info in student.outputs}
    theirs = {info.name: info for info in teacher.outputs}
    _declared_exist(declared, mine, theirs, "output", name)
    pairs = dict(declared) or {key: key for key in mine if key in theirs}
    if not pairs and len(mine) == len(theirs) == 1:
        pairs = {next(iter(mine)): next(iter(theirs))}
    if not pairs:
        raise PassError(
            f"the student puts out {_listed(student.outputs)}, the teacher `{name}` {_listed(teacher.outputs)}: no two "
            "have the same name",
            help="say which belong together: `outputs="
            f'{{{_key(next(iter(mine), "logits"))}: "{next(iter(theirs), "logits")}"}}`, the student\'s first',
        )
    found = []
    for own, other in pairs.items():
        if not (_is_float(mine[own]) and _is_float(theirs[other])):
            if declared:
                raise PassError(
                    f"outputs to compare are reals: the student has `{mine[own]}`, `{name}` has `{theirs[other]}`"
                )
            continue
        _check_fit(mine[own], theirs[other], "output", name, free=(0, *free))
        found.append(Pair(mine[own], theirs[other]))
    if not found:
        raise PassError(f"no output that the student and its teacher `{name}` share is one of reals")
    return tuple(found)


def _declared_exist(
    declared: Mapping[str, str], mine: Mapping[str, TensorInfo], theirs: Mapping[str, TensorInfo], kind: str, name: str
) -> None:
    for own, other in declared.items():
        if own not in mine:
            raise PassError(f"the student has no {kind} `{own}`; it has {_listed(tuple(mine.values()))}")
        if other not in theirs:
            raise PassError(f"the teacher `{name}` has no {kind} `{other}`; it has {_listed(tuple(theirs.values()))}")


def _check_fit(mine: TensorInfo, theirs: TensorInfo, kind: str, name: str, free: tuple[int, ...]) -> None:
    """Compare rank, fixed sizes and kind of element; width may differ."""
    same = _is_float(mine) == _is_float(theirs)
    if mine.ranked and theirs.ranked:
        rank = len(mine.shape)
        loose = {axis % rank for axis in free} if rank else set()
        same = same and rank == len(theirs.shape)
        same = same and all(
            at in loose or not isinstance(one, int) or not isinstance(other, int) or one == other
            for at, (one, other) in enumerate(zip(mine.shape, theirs.shape, strict=True))
        )
    if not same:
        raise PassError(
            f"the student has the {kind} `{mine}`, the teacher `{name}` the {kind} `{theirs}`",
            help="a student learns from a teacher with the same inputs and outputs",
        )


def _is_float(info: TensorInfo) -> bool:
    return info.dtype in ("f16", "f32", "f64", "bf16")


def _listed(infos: tuple[TensorInfo, ...]) -> str:
    return ", ".join(f"`{info}`" for info in infos) or "none"


def _key(name: str) -> str:
    """Return a name as a recipe writes the key of a map."""
    return name if name.isidentifier() else f'"{name}"'
