"""The canonical layout of a recipe: idempotent, and no comment is lost.

Statements stand at the margin and steps four spaces in; blank lines between statements are kept, one at most, and
a pipeline with steps has one on either side. What is in brackets stands on one line if it fits into 100 columns and
has no comment inside, else one item a line. A comment on a line of its own stands before what follows it; one
behind something stays behind it, except in the middle of an item, where it moves before the item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mopt.grammar import syntax
from mopt.grammar.diagnostics import ParseError
from mopt.grammar.parse import parse
from mopt.grammar.read import decode
from mopt.grammar.source import Span

WIDTH = 100
INDENT = "    "


def format_source(text: str | bytes, path: str = "<text>") -> str:
    """Return a recipe in the canonical layout, with LF line breaks.

    Args:
        text: the recipe; bytes must be UTF-8.
        path: what diagnostics call it.

    Raises:
        ParseError: it is no recipe.
    """
    source, faults = decode(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), path)
    if source is None:
        raise ParseError(faults)
    parsed = parse(source)
    if not parsed.ok:
        raise ParseError(parsed.diagnostics)
    return _Formatter(parsed.tree).text()


def expression_text(node: syntax.Expression) -> str:
    """Return an arithmetic expression in canonical form."""
    if isinstance(node, syntax.Binary):
        rank = node.operator in "*/"
        left, right = expression_text(node.left), expression_text(node.right)
        if isinstance(node.left, syntax.Binary) and rank and node.left.operator in "+-":
            left = f"({left})"
        if isinstance(node.right, syntax.Binary) and (rank or node.right.operator in "+-"):
            right = f"({right})"
        return f"{left} {node.operator} {right}"
    return node.text


def requirement_text(node: syntax.Require) -> str:
    """Return a condition in canonical form, without the keyword."""
    where = f" on {node.target.text}" if node.target else ""
    return f"{expression_text(node.left)} {node.operator} {expression_text(node.right)}{where}"


def value_text(node: syntax.Value) -> str:
    """Return a value in canonical form on one line."""
    if isinstance(node, syntax.ListValue):
        return f"[{', '.join(value_text(item) for item in node.items)}]"
    if isinstance(node, syntax.MapValue):
        return "{" + ", ".join(f"{_key_text(entry.key)}: {value_text(entry.value)}" for entry in node.entries) + "}"
    if isinstance(node, syntax.AnyValue):
        return f"any({', '.join(value_text(item) for item in node.alternatives)})"
    return _leaf_text(node)


def _leaf_text(
    node: syntax.Number | syntax.NofM | syntax.Boolean | syntax.String | syntax.TensorValue | syntax.Reference,
) -> str:
    if isinstance(node, syntax.Number):
        return node.text
    if isinstance(node, syntax.NofM):
        return f"{node.n}:{node.m}"
    if isinstance(node, syntax.Boolean):
        return "true" if node.value else "false"
    if isinstance(node, syntax.String):
        return string_text(node.value)
    if isinstance(node, syntax.TensorValue):
        return f"{node.dtype.text}[{', '.join(dim.text for dim in node.dims)}]"
    if node.slice is None:
        return node.text
    start, stop = (bound.text if bound else "" for bound in (node.slice.start, node.slice.stop))
    return f"{node.text}[{start}:{stop}]"


def string_text(value: str) -> str:
    """Return a text with its quotes and escapes."""
    for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        value = value.replace(char, escape)
    return f'"{value}"'


def _key_text(key: syntax.Name | syntax.String) -> str:
    return key.text if isinstance(key, syntax.Name) else string_text(key.value)


@dataclass(frozen=True)
class _Item:
    """Something that a bracket holds: `prefix` (`name=`, `key: `) and a value."""

    span: Span
    prefix: str
    value: syntax.Value


class _Formatter:
    def __init__(self, tree: syntax.RecipeFile) -> None:
        self._source = tree.source
        self._statements = tree.statements
        self._comments = list(tree.comments)  # those not yet written, in order
        self._comments.reverse()
        self._out: list[str] = []

    def text(self) -> str:
        """Return the whole recipe."""
        previous: syntax.Statement | None = None
        end = 0
        for statement in self._statements:
            comments = self._take(statement.span.start)
            blank = self._wants_blank(previous, statement)
            end = self._leading(comments, "", end, blank, statement.span.start)
            self._statement(statement)
            end = self._trailing(statement.span.end)
            previous = statement
        rest = self._take(len(self._source.text) + 1)
        if rest:
            self._leading(rest, "", end, isinstance(previous, syntax.Pipeline) and bool(previous.steps), None)
        return "\n".join(self._out) + "\n" if self._out else ""

    # Comments

    def _take(self, before: int) -> list[Span]:
        """Remove and return the comments that begin before an offset."""
        taken = []
        while self._comments and self._comments[-1].start < before:
            taken.append(self._comments.pop())
        return taken

    def _pending(self, before: int) -> bool:
        return bool(self._comments) and self._comments[-1].start < before

    def _lines_between(self, start: int, end: int) -> int:
        first, last = self._source.position(start)[0], self._source.position(end)[0]
        return last - first

    def _leading(self, comments: list[Span], indent: str, end: int, blank: bool, start: int | None) -> int:
        """Write comments that stand on lines of their own before what begins at `start`; return where they end."""
        for comment in comments:
            if self._out and (blank or self._lines_between(end, comment.start) > 1):
                self._blank()
            blank = False
            self._out.append(indent + comment.text.rstrip())
            end = comment.end
        if start is not None and self._out and (blank or self._lines_between(end, start) > 1):
            self._blank()
        return end

    def _blank(self) -> None:
        if self._out and self._out[-1] and not self._out[-1].endswith("{"):
            self._out.append("")

    def _trailing(self, end: int, limit: int | None = None) -> int:
        """Write the comment that stands behind what ends at `end`, if one does; return where all that ends."""
        if not self._comments:
            return end
        comment = self._comments[-1]
        if (limit is None or comment.start < limit) and self._behind(end, comment):
            self._comments.pop()
            self._out[-1] += "  " + comment.text.rstrip()
            return comment.end
        return end

    def _behind(self, end: int, comment: Span) -> bool:
        """Say whether nothing but blanks and a comma is between the end of something and a comment on its line."""
        between = self._source.text[end : comment.start]
        return not between.strip(" \t,\f\v") and "\n" not in between and "\r" not in between

    # Statements

    def _wants_blank(self, previous: syntax.Statement | None, statement: syntax.Statement) -> bool:
        if previous is None:
            return False
        return any(isinstance(one, syntax.Pipeline) and one.steps for one in (previous, statement))

    def _statement(self, node: syntax.Statement) -> None:
        if isinstance(node, syntax.Title):
            self._line(node.span, f"recipe {string_text(node.title.value)}", "")
        elif isinstance(node, syntax.Import):
            self._line(node.span, f"import {string_text(node.path.value)}", "")
        elif isinstance(node, syntax.Seed):
            self._item(_Item(node.span, "seed ", node.value), "", "")
        elif isinstance(node, syntax.Param):
            self._item(_Item(node.span, f"param {node.name.text} = ", node.value), "", "")
        elif isinstance(node, syntax.Declaration):
            self._call(node.span, f"{node.kind} {node.name.text} = {node.call.name}", node.call, "")
        elif isinstance(node, syntax.Settings):
            self._call(node.span, node.kind, node.call, "")
        else:
            self._pipeline(node)

    def _line(self, span: Span, text: str, indent: str) -> None:
        self._hoist(span.end, indent)
        self._out.append(indent + text)

    def _hoist(self, before: int, indent: str) -> None:
        for comment in self._take(before):
            self._out.append(indent + comment.text.rstrip())

    def _pipeline(self, node: syntax.Pipeline) -> None:
        self._hoist(node.header.end, "")
        head = f"pipeline {node.name.text} = {value_text(node.parent)} {{"
        closing = node.span.end - 1
        if not node.steps and not self._pending(closing):
            self._out.append(head + " }")
            return
        self._out.append(head)
        end = self._trailing(node.header.end, closing)
        for step in node.steps:
            comments = self._take(step.span.start)
            end = self._leading(comments, INDENT, end, False, step.span.start)
            if isinstance(step, syntax.Require):
                self._line(step.span, f"require {requirement_text(step)}", INDENT)
            else:
                self._call(step.span, step.call.name, step.call, INDENT)
            end = self._trailing(step.span.end, closing)
        self._leading(self._take(closing), INDENT, end, False, None)
        while self._out[-1] == "":
            self._out.pop()
        self._out.append("}")

    # Brackets

    def _call(self, span: Span, head: str, call: syntax.Call, indent: str) -> None:
        self._hoist(call.opening.start, indent)
        items = [_Item(one.span, f"{one.name.text}=" if one.name else "", one.value) for one in call.arguments]
        self._bracket(call.opening.start, span.end, head + "(", items, ")", indent, "")

    def _item(self, item: _Item, indent: str, tail: str) -> None:
        """Write an item, over several lines if it must; `tail` is what follows at once (a comma)."""
        value = item.value
        head = item.prefix
        if isinstance(value, syntax.ListValue):
            items = [_Item(one.span, "", one) for one in value.items]
            opening, closing = "[", "]"
        elif isinstance(value, syntax.AnyValue):
            items = [_Item(one.span, "", one) for one in value.alternatives]
            opening, closing = "any(", ")"
        elif isinstance(value, syntax.MapValue):
            items = [_Item(entry.span, f"{_key_text(entry.key)}: ", entry.value) for entry in value.entries]
            opening, closing = "{", "}"
        else:
            self._line(item.span, head + value_text(value) + tail, indent)
            return
        self._hoist(value.span.start, indent)
        self._bracket(value.span.start, value.span.end, head + opening, items, closing, indent, tail)

    def _bracket(
        self, start: int, end: int, head: str, items: Sequence[_Item], closing: str, indent: str, tail: str
    ) -> None:
        flat = head + ", ".join(item.prefix + value_text(item.value) for item in items) + closing + tail
        fits = len(indent) + len(flat) <= WIDTH or not items
        if fits and not self._pending(end):
            self._out.append(indent + flat)
            return
        self._out.append(indent + head)
        last = start + 1
        for item in items:
            last = self._leading_items(self._take(item.span.start), indent + INDENT)
            self._item(item, indent + INDENT, ",")
            last = self._trailing(item.span.end, end)
        del last
        self._hoist(end - 1, indent + INDENT)
        self._out.append(indent + closing + tail)

    def _leading_items(self, comments: list[Span], indent: str) -> int:
        for comment in comments:
            self._out.append(indent + comment.text.rstrip())
        return comments[-1].end if comments else 0
