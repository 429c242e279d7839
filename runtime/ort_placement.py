"""Which execution provider runs which node, as onnxruntime decided when it loaded the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

RECORD: Final = "session.record_ep_graph_assignment_info"
"""The setting of a session that makes onnxruntime remember it (1.24 and later)."""


@dataclass(frozen=True)
class Placed:
    """A node, its operator type, and the provider that runs it, in onnxruntime's words."""

    node: str
    operator: str
    provider: str


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a loaded model run.

    Attributes:
        wanted: the provider that was asked for, in onnxruntime's words.
        nodes: as onnxruntime partitioned the graph, fused nodes once; what a TensorRT engine takes is one entry a node.
    """

    wanted: str
    nodes: tuple[Placed, ...]

    @property
    def elsewhere(self) -> tuple[Placed, ...]:
        """The nodes that another provider runs than the one asked for: that is where time goes."""
        return tuple(node for node in self.nodes if node.provider != self.wanted)

    def told(self, shown: int = 5) -> str:
        """Say in one line which nodes fell back, and to what; empty where none did."""
        left = self.elsewhere
        if not left:
            return ""
        by_provider = Counter(node.provider.removesuffix("ExecutionProvider") for node in left)
        where = ", ".join(f"{count} on {provider}" for provider, count in sorted(by_provider.items()))
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in Counter(node.operator for node in left).most_common(shown)
        )
        names = ", ".join(f"`{node.node}`" for node in left[:shown] if node.node)
        more = f" and {len(left) - shown} more" if len(left) > shown else ""
        return (
            f"{len(left)} of {len(self.nodes)} nodes do not run on {self.wanted.removesuffix('ExecutionProvider')} "
            f"({where}): {kinds}: {names}{more}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "wanted": self.wanted, "nodes": len(self.nodes), "elsewhere": [asdict(node) for node in self.elsewhere],
        }  # fmt: skip


def placement(session: Any, wanted: str) -> Placement | None:
    """Ask a session where its nodes run; None where this onnxruntime does not tell.

    Args:
        session: made with the setting `RECORD`.
        wanted: the provider that was asked for, in onnxruntime's words.
    """
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        return None
    parts: Sequence[Any] = ask()
    return Placement(
        wanted,
        tuple(Placed(node.name, node.op_type, part.ep_name) for part in parts for node in part.get_nodes()),
    )
