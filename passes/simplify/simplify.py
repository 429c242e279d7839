"""`simplify()`: the project's own rules, onnxoptimizer and onnxsim together, to a fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mopt.passes.contract import Context, Note, Pass, PassError, PassResult
from mopt.plugin.options import option
from mopt.plugin.registry import register
from mopt.values import ByteSize, Duration, Globs

if TYPE_CHECKING:
    from mopt.ir.module import Module


@register("simplify")
@dataclass(frozen=True)
class Simplify(Pass):
    """Make the graph smaller without changing what it computes.

    The own rules run first and after every tool that helped; the tools work on copies without large weights, in
    processes of their own, side by side. One that fails, lies or enlarges the graph is dropped with a note.
    """

    source = "docs/rewriting.md; the onnxoptimizer and onnxsim packages"
    version = 1
    tools = ("onnx", "onnx-ir", "onnxruntime", "onnxsim", "onnxoptimizer")
    equivalence = 1e-4

    skip: Globs = option((), help="rules not to use, by name (`fuse-*`)")
    onnxoptimizer: bool = option(True, help="try onnxoptimizer, too")
    onnxsim: bool = option(True, help="try onnxsim, too")
    max_growth: ByteSize = option(
        ByteSize(1 << 20), help="how much larger one computed constant may make the file", minimum=0
    )
    timeout: Duration = option(Duration(300.0), help="how long a tool may take")

    def run(self, module: Module, context: Context) -> PassResult:
        """Simplify the module.

        Raises:
            PassError: `skip` names no rule.
        """
        from mopt.passes.simplify.fixpoint import simplify
        from mopt.passes.simplify.selection import UnknownRuleError, select

        try:
            rules = select((), self.skip)
        except UnknownRuleError as error:
            raise PassError(str(error), help="docs/rewriting.md lists the rules") from error
        tools = tuple(name for name in ("onnxoptimizer", "onnxsim") if getattr(self, name))
        with context.progress("simplify"):
            outcome = simplify(
                module,
                rules,
                tools,
                max_growth=int(self.max_growth),
                timeout=float(self.timeout),
                seed=context.seed,
                bindings=dict(context.bindings),
            )
        notes = tuple(Note(message, severity) for message, severity in outcome.notes)
        return PassResult(outcome.module, outcome.modified, notes)
