"""`Module`: one ONNX graph and what a compiler needs to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx
    import onnx_ir as ir


class Module:
    """A model as the compiler sees it: an `onnx_ir.Model` (the one truth) and views derived from it.

    Whoever changes the graph calls `touch()` afterwards; views are cached per revision.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._revision = 0
        self._dataflow: tuple[int, networkx.MultiDiGraph] | None = None

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def revision(self) -> int:
        """A counter that `touch` raises."""
        return self._revision

    def touch(self) -> None:
        """Say that the graph changed."""
        self._revision += 1
