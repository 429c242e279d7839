"""`simplify.rules`: the project's own rewrite rules to a fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mopt.passes.contract import Context, Note, Pass, PassError, PassResult
from mopt.plugin.options import option
from mopt.plugin.registry import register
from mopt.values import ByteSize, Globs

if TYPE_CHECKING:
    from mopt.ir.module import Module


@register("simplify.rules")
@dataclass(frozen=True)
class Rules(Pass):
    """Rewrite with the project's own rules until none applies: folding, removing, merging and fusing nodes."""

    source = "docs/rewriting.md lists the rules and their algebra"
    version = 1
    tools = ("onnx", "onnx-ir", "onnxruntime")
    equivalence = 1e-4

    only: Globs = option((), help="rules to use, by name (`fold-*`); default: all")
    skip: Globs = option((), help="rules not to use, by name")
    max_growth: ByteSize = option(
        ByteSize(1 << 20), help="how much larger one computed constant may make the file", minimum=0
    )

    def run(self, module: Module, context: Context) -> PassResult:
        """Rewrite the module in place.

        Raises:
            PassError: `only` or `skip` names no rule.
        """
        from mopt.passes.simplify.selection import UnknownRuleError, select
        from mopt.rewrite import apply_rules

        try:
            chosen = select(self.only, self.skip)
        except UnknownRuleError as error:
            raise PassError(str(error), help="docs/rewriting.md lists the rules") from error
        with context.progress("simplify.rules"):
            trace = apply_rules(module, chosen, by=self.name, max_growth=int(self.max_growth))
        notes = []
        if trace.applied:
            counted = ", ".join(f"{rule} {count}×" for rule, count in trace.counts.items())
            notes.append(Note(f"applied {counted}"))
        if not trace.converged:
            notes.append(Note("stopped before a fixed point: two rules undo each other's work", "warning"))
        return PassResult(module, bool(trace.applied), tuple(notes))
