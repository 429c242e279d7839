"""Orders of passes that can't work, along the whole chain of ancestors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mopt.check.report import Report
from mopt.grammar.diagnostics import Label
from mopt.grammar.source import Span
from mopt.passes.contract import Pass


@dataclass(frozen=True)
class _Done:
    """A pass that ran before, and where it stands."""

    name: str
    span: Span


@dataclass(frozen=True)
class Chain:
    """What the passes so far have made of the graph."""

    quantized: _Done | None = None
    packed: _Done | None = None
    promises: Mapping[str, _Done] = field(default_factory=dict)

    def after(self, cls: type[Pass], name: str, span: Span, report: Report) -> Chain:
        """Return the state after one more pass, having reported what can't work."""
        chain = self
        trains = cls.trains and not cls.holds_grids
        if self.quantized is not None and (trains or cls.needs_float):
            why = "trains" if trains else "needs floating-point weights"
            report.error(
                "E0403",
                f"`{name}` can't follow `{self.quantized.name}`",
                span,
                f"`{name}` {why}, and the graph is quantised by now",
                secondary=[Label(self.quantized.span, "quantised here")],
                help=f"put `{name}` before `{self.quantized.name}`",
            )
        packed = self.packed if self.quantized is None and cls.needs_dense else None
        if packed is not None:
            report.error(
                "E0403",
                f"`{name}` can't follow `{packed.name}`",
                span,
                f"`{name}` needs weights, and they are look-ups in codebooks by now",
                secondary=[Label(packed.span, "stored as codebooks here")],
                help=f"put `{name}` before `{packed.name}`: what it makes zero stays zero there",
            )
        broken = [kind for kind in cls.breaks if kind in self.promises]
        for kind in broken if packed is None else ():
            giver = self.promises[kind]
            report.warn(
                "E0407",
                f"`{name}` undoes what `{giver.name}` promises",
                span,
                f"the {kind} does not hold after this",
                secondary=[Label(giver.span, f"promises {kind}")],
                help=f"put `{name}` before `{giver.name}`, if both are wanted",
            )
        promises = {kind: done for kind, done in self.promises.items() if kind not in broken}
        promises |= {kind: _Done(name, span) for kind in cls.gives}
        chain = replace(chain, promises=promises)
        if cls.packs:
            chain = replace(chain, packed=_Done(name, span))
        elif cls.unpacks:
            chain = replace(chain, packed=None)
        if cls.quantizes and chain.quantized is None:
            chain = replace(chain, quantized=_Done(name, span))
        return chain
