"""`mopt show ENGINE`: what was fused with what, at which precision, from which source layers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mopt.runtime.trt.layers import EngineLayer
    from rich.console import Console

SUFFIXES: Final = (".engine", ".plan")
_SHOWN: Final = 40


@dataclass(frozen=True)
class EngineSummary:
    """An engine as its description and its layers tell it.

    Attributes:
        path: the engine file.
        facts: what is written beside it: what built it, capabilities, profile, interface.
        layers: by capability; alike for several where TensorRT chose alike.
    """

    path: Path
    facts: Mapping[str, Any]
    layers: Mapping[str, Sequence[EngineLayer]]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "engine": str(self.path), "facts": dict(self.facts),
            "layers": {name: [layer.to_json() for layer in layers] for name, layers in self.layers.items()},
        }  # fmt: skip


def show_engine(path: Path) -> EngineSummary:
    """Read an engine's description and layers; the engine itself is not loaded, and no GPU is needed.

    Raises:
        TargetError: they are not beside it, or damaged.
    """
    from mopt.runtime.contract import TargetError
    from mopt.runtime.trt.layers import read_layers

    if not path.is_file():
        raise TargetError(f"{path}: there is no such file")
    description = path.with_name(f"{path.name}.json")
    try:
        facts = json.loads(description.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TargetError(
            f"{path}: there is no `{description.name}` beside it, which says what it was built from",
            help="keep both files together; `mopt compile` wrote them",
        ) from error
    except (OSError, ValueError) as error:
        raise TargetError(f"{description}: it is damaged ({error})", help="build the engine again") from error
    return EngineSummary(path, facts, read_layers(path))


def render_engine(summary: EngineSummary, console: Console, *, everything: bool = False) -> None:
    """Print an engine's facts and, for each capability with layers of its own, its layers."""
    from rich.text import Text

    facts = summary.facts
    built = ", ".join(f"{name} {version}" for name, version in facts.get("built_by", {}).items())
    size = facts.get("engine", {}).get("bytes", 0) / 2**20
    console.print(Text(f"{summary.path}: {size:,.1f} MiB, built by {built}", "bold"), soft_wrap=True)
    for kind in ("inputs", "outputs"):
        ports = ", ".join(f"{port['name']}: {port['dtype']}{port['shape']}" for port in facts.get(kind, ()))
        console.print(Text(f"{kind}: {ports}"), soft_wrap=True)
    profile = ", ".join(f"{name} {'–'.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))}"
                        for name, sizes in facts.get("profile", {}).items())  # fmt: skip
    if profile:
        console.print(Text(f"sizes it takes: {profile}"), soft_wrap=True)
    for capabilities, layers in _alike(summary.layers):
        _print_layers(", ".join(capabilities), layers, console, everything)


def _alike(layers: Mapping[str, Sequence[EngineLayer]]) -> list[tuple[list[str], Sequence[EngineLayer]]]:
    found: list[tuple[list[str], Sequence[EngineLayer]]] = []
    for name, mine in layers.items():
        for names, others in found:
            if others == mine:
                names.append(name)
                break
        else:
            found.append(([name], mine))
    return found


def _print_layers(title: str, layers: Sequence[EngineLayer], console: Console, everything: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    precisions = ", ".join(f"{name or 'none'} {count}" for name, count in Counter(
        layer.precision for layer in layers).most_common())  # fmt: skip
    own = sum(not layer.nodes for layer in layers)
    nodes = sum(len(layer.nodes) for layer in layers)
    console.print(
        Text(f"{title}: {len(layers)} layers for {nodes} nodes ({own} are TensorRT's own); precision: {precisions}"),
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    table.add_column("source layers")
    shown = layers if everything else layers[:_SHOWN]
    for layer in shown:
        sources = " + ".join(layer.layers or layer.nodes) or f"({layer.name}: TensorRT's own)"
        table.add_row(layer.kind, layer.precision, Text(sources))
    console.print(table)
    if len(shown) < len(layers):
        console.print(Text(f"… {len(layers) - len(shown)} more; --all lists them"))
