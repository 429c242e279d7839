"""The options of `evaluate` and `profile`, declared like those of a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mopt.check.wording import found
from mopt.grammar import syntax
from mopt.plugin import option
from mopt.values import DataRef, Globs, MetricRef, Ratio

if TYPE_CHECKING:
    from mopt.check.surroundings import Site, Surroundings


class TargetName(str):
    """a declared target or a kind of target"""

    @classmethod
    def from_syntax(cls, node: syntax.Value, site: Site, around: Surroundings) -> Any:
        """Resolve a target by its declared name, or by its kind."""
        if not isinstance(node, syntax.Reference) or len(node.parts) > 1 or node.slice is not None:
            return site.error(around.report, "E0301", f"{site.what} takes targets", node, f"found {found(node)}")
        name = node.text
        symbol = around.scope.get(name)
        if symbol is not None and symbol.kind == "target":
            return cls(name)
        if around.registry.has("targets", name):
            return cls(name)
        if symbol is not None:
            secondary = [symbol.label]
            return site.error(
                around.report, "E0306", f"{site.what} takes targets", node, f"`{name}` is none", secondary
            )
        if around.scope.may_exist(name):
            return cls(name)
        label = around.scope.suggestion(name, ("target",), around.registry.names("targets"))
        return site.error(around.report, "E0201", f"no target is called `{name}`", node, label)


@dataclass(frozen=True)
class EvaluateOptions:
    """`evaluate(…)`."""

    data: DataRef = option(help="what to evaluate on")
    metrics: tuple[MetricRef, ...] = option(help="metrics, or losses")
    pipelines: Globs = option((), help="globs over the names of pipelines or their models; all if absent")
    batch: int = option(1, minimum=1, help="samples at a time")


@dataclass(frozen=True)
class ProfileSettings:
    """`profile(…)`."""

    batch: tuple[int, ...] = option((1,), minimum=1, help="batch sizes to time")
    runs: int = option(20, minimum=1, help="timed rounds, at least")
    warmup: int = option(3, minimum=0, help="untimed rounds before them, at least")
    precision: Ratio = option(
        Ratio(0.02), minimum=0, maximum=1, help="go on until half of each ratio's interval is this small"
    )
    seconds: float = option(1.0, minimum=0, help="how long to go on for that, for each batch size")
    targets: tuple[TargetName, ...] = option((), help="declared targets, or kinds")
    bind: Mapping[str, int] = option(factory=dict, minimum=1, help="sizes of dynamic dimensions")
