"""What of a module's constants trains: every weight becomes a parameter, a buffer or a constant of the runner.

A *leaf* is a value that programs read and no node computes for them: a parameter as it is; a parameter in float32
behind a cast, where the graph keeps it in half precision; a codebook behind a look-up; a parameter on a quantisation
grid; the running statistics of a batch normalisation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch
from mopt.ir import Module, Weight, provenance
from mopt.runtime.trainable.gradient_path import differentiable
from mopt.runtime.trainable.operator import Compute
from mopt.runtime.trainable.tensors import TORCH_DTYPES, Content, of_tensor
from numpy.typing import NDArray
from torch import nn

_TRAINED: Final = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)  # fmt: skip
_STATISTICS: Final = {"BatchNormalization": (3, 4)}


@dataclass(frozen=True)
class Leaf:
    """How a value that no node computes comes about.

    Attributes:
        parts: (kind, name) of the runner's parts it is made of.
        compute: what makes it of them; None where the only part is it.
        label: for error messages.
        state: it is a buffer that its reader may update in place.
    """

    parts: tuple[tuple[str, str], ...]
    compute: Compute | None = None
    label: str = ""
    state: bool = False


class Tensors(nn.Module):
    """A named set of parameters and buffers; `put` makes a name that torch accepts from one of the graph's."""

    def put(self, name: str, tensor: torch.Tensor, *, trains: bool = False, persistent: bool = True) -> str:
        """Register a tensor and return the name it got."""
        safe = re.sub(r"\W", "_", name) or "_"
        while hasattr(self, safe):
            safe += "_"
        if trains:
            self.register_parameter(safe, nn.Parameter(tensor))
        else:
            self.register_buffer(safe, tensor, persistent=persistent)
        return safe


@dataclass(frozen=True)
class Clusters:
    """A weight whose elements share values.

    Attributes:
        parameter: the values.
        places: which of the values each element of the stored tensor (the codebook, or the dense weight) is.
    """

    parameter: str
    places: NDArray[np.int32]


@dataclass
class Store:
    """The leaves of a module and the constants that are none.

    Attributes:
        tensors: parameters and the buffers that are part of a model's state.
        names: weight of the graph → parameter or buffer.
        readers: parameter → names that globs are matched against: source layers that read it, then its own.
        leaves: what programs ask for.
        known: constants that do not train.
        skipped: nodes that leaves do the work of.
        books: names of weights that the graph keeps as codebooks only.
        clusters: codebooks, by the weight that each is written back to.
    """

    tensors: Tensors = field(default_factory=Tensors)
    names: dict[str, str] = field(default_factory=dict)
    readers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    leaves: dict[ir.Value, Leaf] = field(default_factory=dict)
    known: dict[ir.Value, Content] = field(default_factory=dict)
    skipped: set[ir.Node] = field(default_factory=set)
    books: set[str] = field(default_factory=set)
    clusters: dict[str, Clusters] = field(default_factory=dict)

    def parameter(self, name: str, tensor: torch.Tensor, readers: Iterable[str]) -> str:
        """Make a parameter of a weight."""
        safe = self.names[name] = self.tensors.put(name, tensor, trains=True)
        self.readers[safe] = (*readers, name)
        return safe


def collect(module: Module, taken: Mapping[str, ir.Value], store: Store) -> None:
    """Sort every weight of a module into a store.

    Args:
        taken: weights (by name) that are leaves already, in another form (codebooks, quantised weights).
        store: what to fill.
    """
    reached = differentiable(module)
    for weight in module.weights():
        if weight.name in taken or weight.value in store.leaves:
            continue
        tensor = weight.tensor
        if _is_statistic(weight):
            safe = store.names[weight.name] = store.tensors.put(weight.name, _tensor(weight))
            store.leaves[weight.value] = Leaf((("weight", safe),), state=True)
        elif trains(weight, reached):
            _parameter(weight, store)
        else:
            store.known[weight.value] = of_tensor(tensor)


def trains(weight: Weight, reached: set[ir.Value]) -> bool:
    """Say whether a weight becomes a parameter: it was learned, and gradients get to it."""
    if weight.tensor.dtype not in _TRAINED or weight.value not in reached or not weight.size:
        return False
    # A mask of minus infinities, say, is data: a step of training would make NaN of it.
    return weight.is_parameter and bool(np.isfinite(weight.numpy().astype(np.float32)).all())


def readers_of(value: ir.Value) -> tuple[str, ...]:
    """Return the source layers that read a value, each once."""
    found: dict[str, None] = {}
    for usage in value.uses():
        for name in provenance.origins(usage.node) or (usage.node.name or "",):
            found[name] = None
    return tuple(found)


def _parameter(weight: Weight, store: Store) -> None:
    tensor = _tensor(weight)
    dtype = TORCH_DTYPES[weight.tensor.dtype]
    # An optimiser's steps are lost in half precision: what trains is a float32 copy.
    half = dtype in (torch.float16, torch.bfloat16)
    safe = store.parameter(weight.name, tensor.float() if half else tensor, readers_of(weight.value))
    cast: Any = (lambda master: master.to(dtype)) if half else None
    store.leaves[weight.value] = Leaf((("weight", safe),), cast, f"weight `{weight.name}`")


def _is_statistic(weight: Weight) -> bool:
    users = weight.users
    return (
        len(users) == 1
        and all(index in _STATISTICS.get(node.op_type, ()) and node.domain == "" for node, index in users)
        and weight.tensor.dtype in _TRAINED
    )


def _tensor(weight: Weight) -> torch.Tensor:
    content = of_tensor(weight.tensor)
    assert isinstance(content, torch.Tensor)
    return content
