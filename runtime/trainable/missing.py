"""What keeps a graph from training: told before training starts, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from mopt.ir import provenance


@dataclass(frozen=True)
class Missing:
    """A node that the runner can't run.

    Attributes:
        node: its name.
        operator: its operator, with the domain where that is not ONNX's own.
        layers: the source layers it stands for.
        history: the recipe's steps (and their rules) that made it what it is, oldest first; empty if the source did.
        reason: what is lacking.
    """

    node: str
    operator: str
    layers: tuple[str, ...]
    history: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        layers = f" of layer {', '.join(f'`{layer}`' for layer in self.layers)}" if self.layers else ""
        step = f"made by {self.history[-1]}" if self.history else "as the source model has it"
        return f"node `{self.node}` ({self.operator}){layers}, {step}: {self.reason}"


def missing_operator(node: ir.Node, reason: str) -> Missing:
    """Describe a node that can't run."""
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return Missing(node.name or "", operator, provenance.origins(node), provenance.history(node), reason)


class NotTrainableError(Exception):
    """The graph can't be trained: operators are missing, or nothing is left to train.

    Attributes:
        missing: the nodes that can't run; empty where there is nothing to train.
        help: what to do.
    """

    def __init__(self, message: str, missing: Sequence[Missing] = (), help: str = "") -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.help = help

    @classmethod
    def of(cls, missing: Sequence[Missing]) -> NotTrainableError:
        """Make the error for nodes that can't run."""
        lines = "".join(f"\n  {entry}" for entry in missing)
        steps = list(dict.fromkeys(entry.history[-1].partition("/")[0] for entry in missing if entry.history))
        count = "1 node" if len(missing) == 1 else f"{len(missing)} nodes"
        help = f"train before {', '.join(steps)}" if steps else "run simplify() first, or train what the source kept"
        return cls(f"{count} of this graph can't be trained:{lines}", missing, help)
