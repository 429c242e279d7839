"""`convert.opset(N)`: move a graph to another version of the default operator set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mopt.passes.contract import Context, Note, Pass, PassResult
from mopt.plugin import option, register

if TYPE_CHECKING:
    from mopt.ir.module import Module


@register("convert.opset")
@dataclass(frozen=True)
class Opset(Pass):
    """Move to another opset: by relabelling where no operator changed, else by onnxscript's or onnx's converter."""

    to: int = option(help="the opset to move to", minimum=7, maximum=25)

    source: ClassVar[str] = "ONNX operator versions, https://onnx.ai/onnx/repo-docs/VersionConverter.html"
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "onnxruntime")
    equivalence: ClassVar[float | None] = 1e-4

    def run(self, module: Module, context: Context) -> PassResult:
        """Convert and verify.

        Raises:
            PassError: no converter gives a valid graph that computes the same; each one's reason is listed.
        """
        from mopt.passes.convert.opset_convert import move_to

        if module.opset == self.to:
            return PassResult(module, False, (Note(f"it is opset {module.opset} already"),))
        moved, how = move_to(module, self.to, context)
        return PassResult(moved, True, (Note(f"opset {module.opset} to {self.to} by {how}"),))
