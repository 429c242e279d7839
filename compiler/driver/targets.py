"""Which targets a compile is for: those asked for, else those the recipe declares and this machine can serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from mopt.plugin import Registry
from mopt.recipe import Place, Recipe, TargetDecl
from mopt.runtime.contract import TargetError

if TYPE_CHECKING:
    from mopt.runtime.contract import Availability


@dataclass(frozen=True)
class Chosen:
    """The targets of a compile, what each can do here, and those left out with the reason."""

    targets: tuple[TargetDecl, ...]
    availability: Mapping[str, Availability]
    skipped: Mapping[str, str] = field(default_factory=dict)


def choose_targets(recipe: Recipe, asked: tuple[str, ...], registry: Registry) -> Chosen:
    """Choose targets.

    A name is a declared target, or a kind: every declared target of that kind, or one with default options.
    Nothing asked for means all that `profile(targets=…)` names, else all declared, else onnxruntime on the CPU;
    of these, one that this machine can't serve is left out and said so.

    Raises:
        TargetError: a target asked for is unknown, or can't be emitted here; or none is left.
    """
    wanted = _resolve(recipe, asked or recipe.profile.targets or tuple(recipe.targets) or ("ort",), registry)
    availability, skipped, kept = {}, {}, []
    for declaration in wanted:
        found = declaration.target.available()
        if found.can_emit:
            availability[declaration.name] = found
            kept.append(declaration)
        elif asked:
            raise TargetError(f"target `{declaration.name}`: {found.reason}", missing=True, help=found.install)
        else:
            skipped[declaration.name] = f"{found.reason}; {found.install}" if found.install else found.reason
    if not kept:
        reasons = "; ".join(f"`{name}`: {reason}" for name, reason in skipped.items())
        raise TargetError(f"no target of the recipe is available here: {reasons}", missing=True)
    return Chosen(tuple(kept), availability, skipped)


def _resolve(recipe: Recipe, names: tuple[str, ...], registry: Registry) -> tuple[TargetDecl, ...]:
    found: dict[str, TargetDecl] = {}
    for name in names:
        if name in recipe.targets:
            found[name] = recipe.targets[name]
            continue
        of_kind = [d for d in recipe.targets.values() if type(d.target).name == name]
        if not of_kind and registry.has("targets", name):
            of_kind = [TargetDecl(name, registry.get("targets", name)(), Place(recipe.path, 1, 1))]
        if not of_kind:
            known = [*recipe.targets, *registry.names("targets")]
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"there are {', '.join(dict.fromkeys(known))}"
            raise TargetError(f"no target is called `{name}`; {hint}")
        found.update((d.name, d) for d in of_kind)
    return tuple(found.values())
