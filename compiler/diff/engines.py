"""`mopt diff A.engine B.engine`: what TensorRT fuses differently, and at another precision.

Layers are compared by the source layers behind them, so that engines of two pipelines (float, int8) can be. A group
is a connected component of layers of either engine that share a source layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopt.runtime.trt.layers import EngineLayer
    from rich.console import Console


@dataclass(frozen=True)
class Group:
    """Source layers that one engine or the other runs together.

    Attributes:
        sources: their names.
        before, after: how they are split into layers, each as its source layers joined by ` + `.
        precision_before, precision_after: of those layers, in the same order.
    """

    sources: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    precision_before: tuple[str, ...]
    precision_after: tuple[str, ...]

    @property
    def recut(self) -> bool:
        """The layers are cut differently."""
        return sorted(self.before) != sorted(self.after)


@dataclass(frozen=True)
class EngineDiff:
    """What differs between two engines.

    Attributes:
        labels: what they are called.
        layers: how many each has.
        regrouped: groups that are cut into layers differently, those that one engine lacks included.
        precisions: groups cut alike that run at another precision.
        same: how many groups are alike in both.
    """

    labels: tuple[str, str]
    layers: tuple[int, int]
    regrouped: tuple[Group, ...]
    precisions: tuple[Group, ...]
    same: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def diff_engines(
    before: Sequence[EngineLayer], after: Sequence[EngineLayer], labels: tuple[str, str] = ("before", "after")
) -> EngineDiff:
    """Compare the layers of two engines."""
    import networkx

    shared: networkx.Graph = networkx.Graph()
    for side, layers in enumerate((before, after)):
        for place, layer in enumerate(layers):
            for source in layer.layers or layer.nodes:
                shared.add_edge((side, place), source)
    groups = []
    for component in networkx.connected_components(shared):
        sources = tuple(sorted(node for node in component if isinstance(node, str)))
        mine = [sorted(node[1] for node in component if isinstance(node, tuple) and node[0] == side) for side in (0, 1)]
        first, second = [before[place] for place in mine[0]], [after[place] for place in mine[1]]
        groups.append(Group(sources, _cut(first), _cut(second), _precisions(first), _precisions(second)))
    groups.sort(key=lambda group: group.sources)
    regrouped = tuple(group for group in groups if group.recut)
    alike = [group for group in groups if not group.recut]
    changed = tuple(group for group in alike if sorted(group.precision_before) != sorted(group.precision_after))
    return EngineDiff(labels, (len(before), len(after)), regrouped, changed, len(alike) - len(changed))


def _cut(layers: Sequence[EngineLayer]) -> tuple[str, ...]:
    return tuple(" + ".join(sorted(layer.layers or layer.nodes)) for layer in layers)


def _precisions(layers: Sequence[EngineLayer]) -> tuple[str, ...]:
    return tuple(layer.precision for layer in layers)


def capability_pair(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str]:
    """Return which capability's layers to compare: one that both were built for, else the first of each."""
    both = [name for name in before if name in after]
    return (both[0], both[0]) if both else (next(iter(before)), next(iter(after)))


def render_engine_diff(found: EngineDiff, console: Console, *, everything: bool = False) -> None:
    """Print it: fusions first, then precisions."""
    from rich.text import Text

    a, b = found.labels
    console.print(Text(f"{a} ({found.layers[0]} layers) → {b} ({found.layers[1]} layers)", "bold"), soft_wrap=True)
    most = None if everything else 20
    for title, groups in (("fused differently", found.regrouped), ("at another precision", found.precisions)):
        console.print(Text(f"{title}: {len(groups)}", "bold"))
        for group in groups[:most]:
            for sign, style, cuts, precisions in (
                ("-", "red", group.before, group.precision_before), ("+", "green", group.after, group.precision_after)
            ):  # fmt: skip
                for cut, precision in zip(cuts, precisions, strict=True):
                    console.print(Text(f"  {sign} {precision:>9}  {cut}", style), soft_wrap=True)
        if most is not None and len(groups) > most:
            console.print(Text(f"  … {len(groups) - most} more; --all lists them"))
    console.print(Text(f"alike: {found.same}"))
