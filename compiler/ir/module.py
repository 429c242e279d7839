"""`Module`: one ONNX graph and what a compiler needs to know of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from mopt.ir import dataflow as _dataflow
from mopt.ir import weights as _weights
from mopt.ir.dtypes import dims, type_word
from mopt.ir.errors import IRError
from mopt.ir.walk import model_graphs, model_nodes, nested_nodes

if TYPE_CHECKING:
    import networkx
    from mopt.ir.shapes import Inference


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a module.

    `dtype` is in the language's words (`f32`; `sequence(f32)` for what is no tensor, `?` if unknown); a
    dimension is a number, a name (dynamic) or None (unknown). `shape` is `()` also where the rank is unknown;
    `ranked` tells the two apart.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]
    ranked: bool = True

    def __str__(self) -> str:
        if not self.ranked:
            return f"{self.name}: {self.dtype}[…]"
        inner = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{inner}]"


class Module:
    """A model as the compiler sees it: an `onnx_ir.Model` (the one truth) and views derived from it.

    Whoever changes the graph calls `touch()` afterwards; views are cached per revision.

    Attributes:
        model: the graph, its functions and metadata.
        notes: what a reader should know of how it was loaded (defaults made constant, sparse tensors made dense).
    """

    def __init__(self, model: ir.Model, notes: tuple[str, ...] = ()) -> None:
        self.model = model
        self.notes = notes
        self._revision = 0
        self._views: dict[ir.Graph, networkx.MultiDiGraph] = {}

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """The version of the default operator set; 0 if the model imports none."""
        return self.model.opset_imports.get("", 0)

    @property
    def revision(self) -> int:
        """A counter that `touch` raises."""
        return self._revision

    def touch(self) -> None:
        """Say that the graph changed."""
        self._revision += 1
        self._views.clear()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What a caller feeds: the graph's inputs that are no initializers."""
        return tuple(_info(value) for value in self.graph.inputs if not value.is_initializer())

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What a run returns."""
        return tuple(_info(value) for value in self.graph.outputs)

    def dynamic_dims(self) -> tuple[str, ...]:
        """Return the names of the inputs' dynamic dimensions, each once, in order."""
        names = (dim for info in self.inputs for dim in info.shape if isinstance(dim, str))
        return tuple(dict.fromkeys(names))

    def nodes(self, *, functions: bool = False) -> Iterator[ir.Node]:
        """Yield every node: those of the main graph in topological order, each followed by those inside it.

        Args:
            functions: yield the nodes of the model's functions, too (after the others).
        """
        yield from model_nodes(self.model) if functions else nested_nodes(self.graph)

    def weights(self) -> Iterator[_weights.Weight]:
        """Yield every constant tensor: initializers, `Constant` nodes, those of inner graphs and of functions."""
        return _weights.iterate(self)

    def dataflow(self, graph: ir.Graph | None = None) -> networkx.MultiDiGraph:
        """Return the dataflow view (see `mopt.ir.dataflow`) of the main graph, or of an inner one.

        It is derived once per revision; change the graph, not the view.
        """
        target = self.graph if graph is None else graph
        if target not in self._views:
            self._views[target] = _dataflow.build(target)
        return self._views[target]

    def let_go(self) -> None:
        """Give the memory of weights that are mapped from files back to the system, until they are used again."""
        from mopt.ir.mapped import let_go

        let_go(weight.tensor for weight in self.weights())

    def infer_shapes(self) -> Inference:
        """Infer types and shapes of all values from the inputs' on, and store them; see `mopt.ir.shapes`."""
        from mopt.ir import shapes

        return shapes.infer(self)

    def clone(self) -> Module:
        """Return a copy whose graph can be changed freely. Weights are shared, not copied.

        Raises:
            IRError: the graph is not topologically sorted.
        """
        try:
            model = self.model.clone()
        except Exception as error:
            raise IRError(f"the graph can't be copied, it is not in a valid state: {error}") from error
        for graph in model_graphs(model):
            # The copies come with the originals' type objects, which `value.dtype = …` would change for both.
            for value in graph.inputs:
                value.type = _copied(value.type)
            for value in graph.initializers.values():
                value.type = _copied(value.type)
            for node in graph:
                for output in node.outputs:
                    output.type = _copied(output.type)
        return Module(model, self.notes)

    def __repr__(self) -> str:
        name = self.graph.name or "graph"
        return f"<Module {name}: {len(self.graph)} nodes, opset {self.opset}, revision {self._revision}>"


def _info(value: ir.Value) -> TensorInfo:
    shape = dims(value.shape)
    return TensorInfo(value.name or "", type_word(value.type), shape or (), shape is not None)


def _copied(value_type: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if isinstance(value_type, ir.TensorType):
        return ir.TensorType(value_type.dtype, denotation=value_type.denotation)
    return copy.deepcopy(value_type)
