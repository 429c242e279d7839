"""Text to syntax tree, with every syntax error of the text reported, not only the first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from mopt.grammar import syntax
from mopt.grammar.automaton import END, Automaton, UnexpectedTerminalError
from mopt.grammar.build import Builder
from mopt.grammar.diagnostics import Diagnostic, Label
from mopt.grammar.expectation import describe, describe_token
from mopt.grammar.source import Source, Span
from mopt.grammar.tokens import CLOSERS, CONDITION_WORDS, MAX_FAULTS, RESERVED, SIGNS, STATEMENT_KEYWORDS, Scan, Token

_KEYWORDS = frozenset(word.upper() for word in STATEMENT_KEYWORDS)
_NAMES = _KEYWORDS | {"NAME", *(word.upper() for word in CONDITION_WORDS)}
_OPERAND = frozenset(("INT", "NUMBER", "MINUS", "LPAR", "NAME"))
_VALUE = frozenset(("INT", "NUMBER", "MINUS", "STRING", "LSQB", "LBRACE", "TRUE", "FALSE", "ANY", "NAME"))
_SIGN_KINDS = frozenset(SIGNS.values())
_RESERVED = frozenset(word.upper() for word in RESERVED)


@dataclass(frozen=True)
class Parsed:
    """A parsed text.

    Attributes:
        tree: what could be understood; complete only if there are no diagnostics.
        diagnostics: what could not.
        lost: names whose declarations may have been dropped, so that they are not reported as unknown as well.
    """

    tree: syntax.RecipeFile
    diagnostics: tuple[Diagnostic, ...]
    lost: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether the text is a recipe."""
        return not self.diagnostics


def parse(source: Source) -> Parsed:
    """Parse a recipe. Never raises for what the text says."""
    scan = Scan(source)
    builder = Builder(source)
    diagnostics = list(scan.diagnostics)
    statements, faults = _Parser(source, scan.tokens, builder).run()
    diagnostics += builder.diagnostics + faults
    diagnostics.sort(key=lambda one: one.primary.span.start if one.primary else 0)
    comments = tuple(Span(source, start, end) for start, end in scan.comments)
    tree = syntax.RecipeFile(source, statements, comments)
    lost = _lost(scan.tokens, statements) if faults else frozenset[str]()
    return Parsed(tree, tuple(diagnostics), lost)


def parse_value(source: Source) -> tuple[syntax.Value | None, tuple[Diagnostic, ...]]:
    """Parse one value, as `--set NAME=VALUE` takes it."""
    scan = Scan(source)
    builder = Builder(source)
    automaton = Automaton("value", builder.reduce)
    faults: list[Diagnostic] = []
    value: syntax.Value | None = None
    try:
        for token in scan.tokens:
            automaton.feed(token)
        token = _end(source, scan.tokens)
        value = automaton.finish()
    except UnexpectedTerminalError:
        faults.append(_fault(source, automaton.expected(), token, None, None))
    diagnostics = (*scan.diagnostics, *builder.diagnostics, *faults)
    return (None if diagnostics else value), diagnostics


def _end(source: Source, tokens: list[Token]) -> Token:
    at = tokens[-1].end if tokens else len(source.text)
    return Token(END, "", at, at)


def _lost(tokens: list[Token], statements: tuple[syntax.Statement, ...]) -> frozenset[str]:
    """Names after a keyword of a declaration which the tree does not declare."""
    declared = {
        one.name.text for one in statements if isinstance(one, syntax.Declaration | syntax.Param | syntax.Pipeline)
    }
    seen = {
        second.text for first, second in itertools.pairwise(tokens) if first.type in _KEYWORDS and second.type in _NAMES
    }
    return frozenset(seen - declared)


class _Parser:
    """The loop over the terminals, with recovery: resume at the next step or statement that begins a line."""

    def __init__(self, source: Source, tokens: list[Token], builder: Builder) -> None:
        self._source = source
        self._tokens = tokens
        self._automaton = Automaton("start", builder.reduce)
        self._faults: list[Diagnostic] = []
        self._resumed = 0  # brackets before this terminal were given up
        self._brace: Token | None = None  # of the pipeline that was resumed in

    def run(self) -> tuple[tuple[syntax.Statement, ...], list[Diagnostic]]:
        tokens, automaton = self._tokens, self._automaton
        index, last = 0, -1
        while True:
            try:
                while index < len(tokens):
                    automaton.feed(tokens[index])
                    index += 1
                return automaton.finish(), self._faults
            except UnexpectedTerminalError:
                if index and self._begins_line(index - 1) and self._is_statement(index - 1):
                    index -= 1  # `evaluate(data=x,` and then a statement: its keyword was taken for a name
                swallowed = self._swallowed_step(index)
                index = swallowed if swallowed is not None else index
                token = tokens[index] if index < len(tokens) else _end(self._source, tokens)
                opening = self._innermost_opening(index)
                before = tokens[index - 1] if index and (token.type == END or self._begins_line(index)) else None
                expected = automaton.expected()
                if swallowed is not None:
                    expected = _VALUE if opening else _OPERAND
                previous = tokens[index - 1] if index else None
                self._faults.append(_fault(self._source, expected, token, opening, before, previous))
                resumed = self._recover(index, settle=swallowed is None)
                if resumed <= last:  # never twice at the same place
                    automaton.unwind("_statements")
                    resumed = last + 1
                if len(self._faults) == MAX_FAULTS:
                    automaton.unwind("_statements")
                    resumed = len(tokens)
                index = last = resumed

    def _swallowed_step(self, index: int) -> int | None:
        """Return where a step begins whose name was taken for the end of what stands before it, if so.

        `require size <=` and, on the next line, `simplify()`.
        """
        tokens = self._tokens
        if index >= len(tokens) or tokens[index].type != "LPAR":
            return None
        start = index - 1
        while start > 1 and tokens[start - 1].type == "DOT":
            start -= 2
        if start > 0 and self._begins_line(start) and self._is_step(start, bare=False):
            return start
        return None

    def _recover(self, index: int, settle: bool) -> int:
        """Put the automaton into a state that takes the terminal at the index returned.

        `settle`: what is complete so far counts.
        """
        brace = self._pipeline_brace(index)
        self._brace = None
        for at in range(index, len(self._tokens)):
            if not self._begins_line(at):
                continue
            kind = self._tokens[at].type
            if self._is_statement(at) or (at > index and self._is_misspelt_statement(at)):
                self._close_pipeline(brace, settle)
                self._resumed = at
                return at
            is_step = kind in ("REQUIRE", "RBRACE") or self._is_step(at, bare=at > index)
            if brace and is_step and self._automaton.unwind("_steps", settle):
                self._resumed, self._brace = at, brace
                return at
        self._close_pipeline(brace, settle)
        return len(self._tokens)

    def _close_pipeline(self, brace: Token | None, settle: bool) -> None:
        # A pipeline whose brace is missing still counts: its name is known to what follows.
        if brace and self._automaton.unwind("_steps", settle):
            at = self._tokens[-1].end
            self._automaton.feed(Token("RBRACE", "}", at, at))
        else:
            self._automaton.unwind("_statements", settle)

    def _pipeline_brace(self, index: int) -> Token | None:
        """Return the brace of the pipeline around a terminal."""
        brace: Token | None = None
        for at in range(index - 1, -1, -1):
            token = self._tokens[at]
            if token.type == "LBRACE":
                brace = token
            elif token.type == "RBRACE" and self._begins_line(at):
                return None
            elif self._begins_line(at) and self._is_statement(at):
                return brace if token.type == "PIPELINE" else None
        return None

    def _innermost_opening(self, index: int) -> Token | None:
        """Return the bracket that is open where the terminal at `index` stands."""
        closed: list[str] = []
        for at in range(index - 1, self._resumed - 1, -1):
            token = self._tokens[at]
            if token.type in ("RPAR", "RSQB", "RBRACE"):
                closed.append(token.type)
            elif token.type in CLOSERS:
                if not closed:
                    return token
                if closed[-1] == CLOSERS[token.type]:
                    closed.pop()
            elif self._begins_line(at) and self._is_statement(at):
                return None
        return self._brace if not closed else None

    def _begins_line(self, index: int) -> bool:
        if index == 0:
            return True
        between = self._source.text[self._tokens[index - 1].end : self._tokens[index].start]
        return "\n" in between or "\r" in between

    def _is_statement(self, index: int) -> bool:
        kind = self._tokens[index].type
        if kind not in _KEYWORDS:
            return False
        following = self._tokens[index + 1].type if index + 1 < len(self._tokens) else END
        if kind in ("RECIPE", "IMPORT"):
            return following == "STRING"
        if kind in ("EVALUATE", "PROFILE"):
            return following == "LPAR"
        if kind == "SEED":
            return following in ("INT", "MINUS", "NUMBER", "NAME")
        return following in _NAMES

    def _is_misspelt_statement(self, index: int) -> bool:
        kinds = [token.type for token in self._tokens[index : index + 3]]
        if len(kinds) < 3 or kinds[2] != "EQUAL":
            return False
        return kinds[0] in _NAMES and (kinds[1] in _NAMES or kinds[1] in _RESERVED)

    def _is_step(self, index: int, bare: bool) -> bool:
        """Say whether a step begins here; `bare` takes one whose parentheses were forgotten, too."""
        tokens = self._tokens
        if tokens[index].type != "NAME":
            return False
        at = index + 1
        while at + 1 < len(tokens) and tokens[at].type == "DOT" and tokens[at + 1].type in _NAMES:
            at += 2
        if at >= len(tokens):
            return False
        if bare and self._begins_line(at) and tokens[at].type in ("NAME", "REQUIRE", "RBRACE"):
            return True
        return tokens[at].type == "LPAR"


def _fault(
    source: Source,
    expected: frozenset[str],
    token: Token,
    opening: Token | None,
    before: Token | None,
    previous: Token | None = None,
) -> Diagnostic:
    """Describe a terminal that can't stand where it stands.

    Args:
        source: the text.
        expected: the terminals that could stand there.
        token: the terminal.
        opening: the bracket that is open there.
        before: the terminal before it, if that stands on an earlier line.
        previous: the terminal before it, wherever.
    """
    span = source.span(token.start, max(token.end, token.start))
    found = describe_token(token)
    wanted, help = describe(expected, token)
    of_target = expected == _NAMES and previous is not None and previous.type == "ON"
    if of_target:
        wanted, help = "the name of a target", "a condition `on` a target is measured there, and asked only there"
    unclosed = opening is not None and (
        token.type == END
        or token.type in _KEYWORDS
        or (token.type in CLOSERS.values() and token.type != CLOSERS[opening.type])
    )
    if unclosed and opening is not None:
        return Diagnostic(
            "E0108",
            "error",
            f"`{opening.text}` is never closed",
            Label(span, f"expected {wanted}, found {found}"),
            (Label(source.span(opening.start, opening.end), "opened here"),),
            help=help,
        )
    message = f"expected {wanted}"
    if before is not None and (of_target or expected in (_OPERAND, _VALUE) or not expected - _SIGN_KINDS):
        # What is missing is missing at the end of the line before.
        return Diagnostic(
            "E0101", "error", message, Label(source.span(before.start, before.end), "missing behind this"), help=help
        )
    return Diagnostic("E0101", "error", message, Label(span, f"found {found}"), help=help)
