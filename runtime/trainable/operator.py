"""One operator of the trainable runner: a node is prepared once, and what that returns is called at every step.

Preparing reads attributes, checks that everything asked for is served, and returns a function of tensors with all
decisions made, so that a training step costs little more than the torch calls themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import onnx_ir
    from numpy.typing import NDArray

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
        known: contents of the inputs that are known when the runner is built, by position (see `constant`).
        state: positions of inputs that are buffers of the runner, which the node may update in place (the running
            statistics of a batch normalisation).
        bindings: inside a function, the attributes of its call that `attribute` resolves references to.
    """

    node: onnx_ir.Node
    opset: int
    mode: Any
    known: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    state: frozenset[int] = frozenset()
    bindings: Mapping[str, Any] = field(default_factory=dict)

    def constant(self, index: int) -> NDArray[Any] | None:
        """Return what the input at this place always holds (a shape, pads, a limit), or None if that is not known.

        Parameters are never known: they train. The compute function is still called with the tensor.
        """
        return self.known.get(index)

    def integers(self, index: int) -> Callable[[Any], list[int] | None]:
        """Return how to read an input that holds integers (axes, pads, a shape), given its tensor at every step.

        What is known is read once, here. The answer is a flat list of Python's integers, None for an absent input.
        Declare such inputs as `host` (see `operator`), so that reading them never waits for an accelerator.
        """
        known = self.constant(index)
        if known is not None:
            fixed = [int(number) for number in known.reshape(-1)]
            return lambda _: fixed
        if not self.has(index):
            return lambda _: None
        return lambda tensor: [int(number) for number in tensor.reshape(-1).tolist()]

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value as plain Python (int, float, str, tuple, numpy array, graph), or the default."""
        found: Any = self.node.attributes.get(name)
        if found is not None and found.is_ref():
            found = self.bindings.get(found.ref_attr_name)
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

HOST_INPUTS: Final[dict[tuple[str, str], tuple[int, ...]]] = {}
"""(domain, operator) → positions of inputs that the operator reads as numbers; they are kept in the CPU's memory."""


def operator(*names: str, domain: str = "", host: tuple[int, ...] = ()) -> Callable[[_P], _P]:
    """Declare that the decorated function prepares nodes of these operators.

    Args:
        names: the operators.
        domain: their domain.
        host: positions of inputs whose content steers the computation and is read as numbers (`tolist`, `item`):
            axes, shapes, pads, repeats. They stay in the CPU's memory when the runner moves to an accelerator. A node
            whose other inputs are all there too (shape arithmetic) is computed on the CPU.
    """

    def declare(prepare: _P) -> _P:
        for name in names:
            if (domain, name) in OPERATORS:
                raise ValueError(f"operator {name} is declared twice")
            OPERATORS[domain, name] = prepare
            if host:
                HOST_INPUTS[domain, name] = host
        return prepare

    return declare
