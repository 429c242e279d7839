"""One operator of the trainable runner: a node is prepared once, and what that returns is called at every step.

Preparing reads attributes, checks that everything asked for is served, and returns a function of tensors with all
decisions made, so that a training step costs little more than the torch calls themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import onnx_ir

Compute = Callable[..., Any]
"""Tensors in (None where an optional input is absent), one tensor or a tuple with one for each output out."""


class UnsupportedOperatorError(Exception):
    """The runner has no such operator, or not this form of it. The message says what is asked for and not served."""


@dataclass(frozen=True)
class Call:
    """What is known of a node before any tensor is there.

    Attributes:
        node: the node.
        opset: version of the node's operator set that the model imports (its meaning may depend on it).
        mode: shared by all nodes of a runner; `mode.training` says at every step whether the runner trains.
    """

    node: onnx_ir.Node
    opset: int
    mode: Any

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value as plain Python (int, float, str, tuple, numpy array, graph), or the default."""
        found = self.node.attributes.get(name)
        if found is None:
            return default
        value = found.value
        if isinstance(value, list | tuple):
            return tuple(value)
        if hasattr(value, "numpy") and hasattr(value, "dtype"):
            return value.numpy()
        return value

    def has(self, index: int) -> bool:
        """Tell whether the input at this place is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    @property
    def outputs(self) -> int:
        """How many outputs the node has, absent trailing ones left out."""
        named = [place for place, value in enumerate(self.node.outputs) if value.name]
        return named[-1] + 1 if named else len(self.node.outputs)


Prepare = Callable[[Call], Compute]
_P = TypeVar("_P", bound=Prepare)

OPERATORS: Final[dict[tuple[str, str], Prepare]] = {}
"""(domain, operator) → how to prepare a node of it. Filled by the modules of `mopt.runtime.trainable.operators`."""


def operator(*names: str, domain: str = "") -> Callable[[_P], _P]:
    """Declare that the decorated function prepares nodes of these operators."""

    def declare(prepare: _P) -> _P:
        for name in names:
            if (domain, name) in OPERATORS:
                raise ValueError(f"operator {name} is declared twice")
            OPERATORS[domain, name] = prepare
        return prepare

    return declare
