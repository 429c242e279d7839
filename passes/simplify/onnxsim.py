"""`simplify.onnxsim`: the onnxsim tool, verified."""

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


@register("simplify.onnxsim")
@dataclass(frozen=True)
class OnnxSim(Pass):
    """Run onnxsim in a process of its own; drop what it made, with a note, unless it is valid, equal and no larger."""

    source = "the onnxsim package"
    version = 1
    tools = ("onnx", "onnx-ir", "onnxsim")
    equivalence = 1e-4

    skip: tuple[str, ...] = option((), help="onnxsim's own optimisers to leave out")
    timeout: Duration = option(Duration(300.0), help="how long it may take")

    def run(self, module: Module, context: Context) -> PassResult:
        """Return what onnxsim made of the module, or the module itself with a note."""
        return run_tool("onnxsim", module, context, timeout=float(self.timeout), names=self.skip)
