"""`simplify.onnxoptimizer`: the onnxoptimizer tool, verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mopt.passes.contract import Context, Pass, PassResult
from mopt.passes.simplify.opaque import run_tool
from mopt.plugin.options import option
from mopt.plugin.registry import register
from mopt.values import Duration

if TYPE_CHECKING:
    from mopt.ir.module import Module


@register("simplify.onnxoptimizer")
@dataclass(frozen=True)
class OnnxOptimizer(Pass):
    """Run onnxoptimizer in a process of its own; drop what it made, with a note, unless it is valid and equal."""

    source = "the onnxoptimizer package"
    version = 1
    tools = ("onnx", "onnx-ir", "onnxoptimizer")
    equivalence = 1e-4

    passes: tuple[str, ...] = option((), help="its own passes to run; default: all that fuse or eliminate")
    timeout: Duration = option(Duration(300.0), help="how long it may take")

    def run(self, module: Module, context: Context) -> PassResult:
        """Return what onnxoptimizer made of the module, or the module itself with a note."""
        return run_tool("onnxoptimizer", module, context, timeout=float(self.timeout), names=self.passes)
