"""A summary on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopt.diff.model import TensorFacts, WeightFacts
from mopt.rendering.page import Column, Page, Table, clean
from mopt.rendering.quantities import count, magnitude, plural, share, size

if TYPE_CHECKING:
    from mopt.show.summary import ModelSummary, NodeFacts
    from rich.console import Console

FOLDED = 12
"""Rows of a list before it is folded."""


def render(summary: ModelSummary, console: Console, *, everything: bool) -> None:
    """Print a summary; `everything` unfolds all lists."""
    page = Page(console)
    page.heading(clean(summary.label))
    opsets = ", ".join(f"{clean(domain)} {version}" for domain, version in summary.opsets)
    made_by = f", made by {clean(summary.producer)}" if summary.producer else ""
    page.line(f"IR {summary.ir_version}, opset {opsets}{made_by}")
    _interface(page, summary)
    _totals(page, summary)
    _operators(page, summary, everything)
    if any(layer.nodes > 1 for layer in summary.layers_by_cost):
        _costs(page, "Layers of the source model", "layer", summary.layers_by_cost, summary.macs, everything)
    _costs(page, "Most expensive nodes", "node", summary.nodes_by_cost, summary.macs, everything)
    _weights(page, summary, everything)
    _rest(page, summary, everything)


def _interface(page: Page, summary: ModelSummary) -> None:
    page.heading("Interface")
    table = Table([Column(""), Column("", flexible=True), Column("")])
    table.rows = [("input", clean(info.name), _typed(info)) for info in summary.inputs]
    table.rows += [("output", clean(info.name), _typed(info)) for info in summary.outputs]
    page.table(table)
    if summary.dynamic:
        sizes = dict(summary.bindings)
        told = ", ".join(f"{clean(name)} = {sizes[name]}" if name in sizes else clean(name) for name in summary.dynamic)
        page.line(f"dynamic: {told} (what the figures below are for)", "dim")


def _typed(info: TensorFacts) -> str:
    return clean(str(info))


def _totals(page: Page, summary: ModelSummary) -> None:
    page.heading("Totals")
    rows = [("nodes", count(summary.nodes), f"and {plural(summary.constants, 'Constant node')}")]
    rows += [("parameters", count(summary.parameters), "")]
    rows += [("non-zero", count(summary.nonzero), f"{share(summary.sparsity)} zeros" if summary.parameters else "")]
    unknown = f"without {plural(len(summary.unknown), 'node')} whose sizes depend on the data"
    rows += [("MACs", magnitude(summary.macs), unknown if summary.unknown else "")]
    by_type = ", ".join(f"{item.dtype} {size(item.bytes)}" for item in summary.dtypes[:4])
    rows += [("weights", size(summary.bytes), by_type if len(summary.dtypes) > 1 else "")]
    page.table(Table([Column(""), Column("", "right"), Column("", flexible=True)], list(rows)))


def _operators(page: Page, summary: ModelSummary, everything: bool) -> None:
    page.heading("Operators", f"{count(summary.nodes)} of {plural(len(summary.operators), 'type')}")
    shown = summary.operators if everything else summary.operators[:FOLDED]
    most = max((item.nodes for item in shown), default=1)
    columns = [
        Column("", flexible=True), Column("nodes", "right"), Column("", droppable=2), Column("MACs", "right"),
        Column("parameters", "right", droppable=1),
    ]  # fmt: skip
    rows = [
        (
            clean(item.op),
            count(item.nodes),
            "#" * max(1, round(20 * item.nodes / most)),
            magnitude(item.macs) if item.macs else "",
            magnitude(item.parameters) if item.parameters else "",
        )
        for item in shown
    ]
    page.table(Table(columns, list(rows)))
    _more(page, len(summary.operators) - len(shown), "type")


def _costs(page: Page, title: str, noun: str, items: tuple[NodeFacts, ...], macs: int, everything: bool) -> None:
    costly = [item for item in items if item.macs or item.parameters]
    if not costly:
        return
    page.heading(title)
    shown = costly if everything else costly[:FOLDED]
    columns = [
        Column(noun, flexible=True), Column("type", droppable=1), Column("MACs", "right"), Column("of all", "right"),
        Column("parameters", "right"), Column("zeros", "right"), Column("bytes", "right", droppable=2),
    ]  # fmt: skip
    rows = [
        (
            clean(item.name),
            clean(item.op),
            magnitude(item.macs) if item.macs else "",
            share(item.macs / macs) if item.macs else "",
            count(item.parameters) if item.parameters else "",
            share(1 - item.nonzero / item.parameters) if item.parameters else "",
            size(item.bytes) if item.bytes else "",
        )
        for item in shown
    ]
    page.table(Table(columns, list(rows)))
    _more(page, len(costly) - len(shown), noun)


def _weights(page: Page, summary: ModelSummary, everything: bool) -> None:
    if not summary.weights:
        return
    page.heading("Weights", f"{count(len(summary.weights))}, {size(summary.bytes)}")
    shown = summary.weights if everything else summary.weights[:FOLDED]
    columns = [
        Column("weight", flexible=True), Column("type"), Column("shape"), Column("bytes", "right"),
        Column("zeros", "right"), Column("distinct", "right", droppable=1), Column("bits", "right", droppable=3),
        Column("read by", droppable=2),
    ]  # fmt: skip
    rows = [
        (
            clean(item.facts.name),
            item.facts.dtype,
            "×".join(map(str, item.facts.shape)) or "scalar",
            size(item.facts.bytes),
            "" if item.facts.sparsity is None else share(item.facts.sparsity),
            _distinct(item.facts),
            "" if item.facts.bits is None else str(item.facts.bits),
            clean(", ".join(item.users)),
        )
        for item in shown
    ]
    page.table(Table(columns, list(rows)))
    _more(page, len(summary.weights) - len(shown), "weight")


def _distinct(facts: WeightFacts) -> str:
    if facts.zeros is None:
        return ""
    return ">65,536" if facts.distinct is None else count(facts.distinct)


def _rest(page: Page, summary: ModelSummary, everything: bool) -> None:
    if summary.bodies:
        page.heading("Graphs inside nodes", count(len(summary.bodies)))
        shown = summary.bodies if everything else summary.bodies[:FOLDED]
        rows = [(clean(body.path), plural(body.nodes, "node")) for body in shown]
        page.table(Table([Column("", flexible=True), Column("", "right")], list(rows)))
        _more(page, len(summary.bodies) - len(shown), "graph")
    if summary.functions or summary.custom:
        page.heading("Beyond ONNX's own operators")
        for domain in summary.custom:
            page.line(f"domain {clean(domain)}")
        for function in summary.functions:
            page.line(f"function {clean(function)}")
    if summary.history:
        page.heading("Done by", f"{plural(summary.stamped, 'node')} with known origin")
        rows = [(clean(entry), plural(nodes, "node")) for entry, nodes in summary.history]
        page.table(Table([Column("", flexible=True), Column("", "right")], list(rows)))
    if summary.metadata:
        page.heading("Metadata", plural(len(summary.metadata), "entry", "entries"))
        room = page.width - 8
        rows = [(clean(key), clean(text if everything else _cut(text, room // 3))) for key, text in summary.metadata]
        page.table(Table([Column(""), Column("", flexible=not everything)], list(rows)))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}… ({count(len(text))} characters)"


def _more(page: Page, number: int, noun: str) -> None:
    if number > 0:
        page.line(f"… {plural(number, f'more {noun}')} (--all shows them)", "dim")
