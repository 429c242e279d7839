"""The language: text to syntax tree, diagnostics, canonical layout. Knows nothing of models or passes."""

from mopt.grammar.codes import CATALOGUE, explain
from mopt.grammar.diagnostics import Diagnostic, Label, ParseError
from mopt.grammar.format import format_source
from mopt.grammar.parse import Parsed, parse
from mopt.grammar.read import decode, read
from mopt.grammar.render import render
from mopt.grammar.source import Source, Span

__all__ = [
    "CATALOGUE",
    "Diagnostic",
    "Label",
    "ParseError",
    "Parsed",
    "Source",
    "Span",
    "decode",
    "explain",
    "format_source",
    "parse",
    "read",
    "render",
]
