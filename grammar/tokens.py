"""From text to terminals. What is malformed is reported, and replaced by something that can be parsed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from mopt.grammar.diagnostics import Diagnostic, Label, nearest
from mopt.grammar.source import Source

MAX_DEPTH = 64
"""How deep brackets may nest: what reads a tree recurses, so the depth is bounded where the tree begins."""

MAX_FAULTS = 100
"""How many mistakes of one kind are reported of one file: more say nothing, and something else is wrong."""

STATEMENT_KEYWORDS = (
    "recipe", "import", "seed", "param", "model", "data", "loss", "metric", "app", "target", "evaluate", "profile",
    "pipeline",
)  # fmt: skip
"""Words that begin a statement; elsewhere they are ordinary names."""

CONDITION_WORDS = ("on",)
"""Words that mean something inside a condition; elsewhere they are ordinary names."""

RESERVED = ("any", "require", "true", "false")
"""Words that are never names."""

UNITS: dict[str, tuple[str, float]] = {
    "%": ("ratio", 0.01),
    "ns": ("duration", 1e-9), "us": ("duration", 1e-6), "µs": ("duration", 1e-6), "μs": ("duration", 1e-6),
    "ms": ("duration", 1e-3), "s": ("duration", 1.0), "min": ("duration", 60.0), "h": ("duration", 3600.0),
    "B": ("size", 1), "KB": ("size", 10**3), "MB": ("size", 10**6), "GB": ("size", 10**9),
    "KiB": ("size", 1 << 10), "MiB": ("size", 1 << 20), "GiB": ("size", 1 << 30),
}  # fmt: skip
"""Each unit: what it measures, and how many of the base (1, seconds, bytes) it stands for."""

SIGNS = {
    "(": "LPAR", ")": "RPAR", "[": "LSQB", "]": "RSQB", "{": "LBRACE", "}": "RBRACE", ",": "COMMA", ":": "COLON",
    ".": "DOT", "=": "EQUAL", "<=": "LE", ">=": "GE", "<": "LT", ">": "GT", "==": "EQ", "!=": "NE", "+": "PLUS",
    "-": "MINUS", "*": "STAR", "/": "SLASH",
}  # fmt: skip

CLOSERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}

_TYPES = {word: word.upper() for word in (*STATEMENT_KEYWORDS, *CONDITION_WORDS, *RESERVED)} | SIGNS

_SCAN = re.compile(
    r"""[ \t\r\n\f\v]+
    |(?P<name>[^\W\d][\w\u0300-\u036f]*)
    |(?P<sign><=|>=|==|!=|[()\[\]{},:.=<>+*/-])
    |(?P<number>(?P<digits>\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)(?P<unit>%|[^\W\d]\w*)?)
    |(?P<string>"(?:[^"\\\r\n]|\\[^\r\n])*")
    |(?P<comment>\#[^\r\n]*)
    |(?P<open>"[^"\r\n]*?(?=[ \t)\]},]{0,16}(?:[\r\n]|\Z)))
    |(?P<lone>"[^\r\n]*)
    |(?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}


class Token:
    """One terminal: its type, what it says (escapes resolved, names normalised), and where."""

    __slots__ = ("end", "start", "text", "type")

    def __init__(self, type: str, text: str, start: int, end: int) -> None:
        self.type = type
        self.text = text
        self.start = start
        self.end = end

    def __repr__(self) -> str:
        return f"{self.type}({self.text!r})"


class Scan:
    """The terminals of a source, its comments (as start and end), and what was wrong."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tokens: list[Token] = []
        self.comments: list[tuple[int, int]] = []
        self.diagnostics: list[Diagnostic] = []
        self._scan()

    def _report(self, code: str, message: str, start: int, end: int, label: str, help: str | None = None) -> None:
        if len(self.diagnostics) >= MAX_FAULTS:
            return
        primary = Label(self.source.span(start, end), label)
        self.diagnostics.append(Diagnostic(code, "error", message, primary, help=help))

    def _scan(self) -> None:
        depth = 0
        too_deep = False
        append = self.tokens.append
        for match in _SCAN.finditer(self.source.text):
            kind = match.lastgroup
            if kind is None:
                continue
            start, end = match.span()
            text = match.group()
            if kind == "comment":
                self.comments.append((start, end))
                continue
            if kind == "sign":
                if text in "([{":
                    depth += 1
                    if depth > MAX_DEPTH:
                        if not too_deep:
                            self._too_deep(start)
                        too_deep = True
                        continue
                elif text in ")]}":
                    depth = max(depth - 1, 0)
                    if depth >= MAX_DEPTH:
                        continue
                    too_deep = False
            if depth > MAX_DEPTH:
                continue
            if kind == "name":
                if not text.isascii():
                    text = unicodedata.normalize("NFC", text)
                append(Token(_TYPES.get(text, "NAME"), text, start, end))
            elif kind == "sign":
                append(Token(SIGNS[text], text, start, end))
            elif kind in ("number", "digits", "unit"):
                append(self._number(match, start, end))
            elif kind == "string":
                append(Token("STRING", self._unescape(text[1:-1], start + 1), start, end))
            elif kind in ("open", "lone"):
                self._unterminated(text, start, end)
                append(Token("STRING", text[1:], start, end))
            else:
                self._unexpected(text, start)

    def _too_deep(self, start: int) -> None:
        self._report(
            "E0105",
            f"brackets are nested more than {MAX_DEPTH} deep",
            start,
            start + 1,
            f"this is level {MAX_DEPTH + 1}",
            "no recipe needs this: flatten the list or the map",
        )

    def _number(self, match: re.Match[str], start: int, end: int) -> Token:
        digits, unit = match["digits"], match["unit"]
        if unit is not None and unit not in UNITS:
            close = nearest(unit, UNITS)
            label = f"did you mean `{digits}{close}`?" if close else f"no unit is called `{unit}`"
            self._report(
                "E0106", f"unknown unit `{unit}`", start + len(digits), end, label, "units are " + listing(UNITS)
            )
            return Token("NUMBER", digits, start, end)
        if unit is None and digits.replace("_", "").isdecimal() and digits.isascii():
            return Token("INT", digits, start, end)
        if not digits.isascii():
            self._report(
                "E0102", "a number with digits that are not 0 to 9", start, end, "write it with the digits 0 to 9"
            )
            return Token("INT", "0", start, end)
        return Token("NUMBER", digits + (unit or ""), start, end)

    def _unescape(self, text: str, start: int) -> str:
        if "\\" not in text:
            return text

        def replace(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                at = start + match.start()
                self._report(
                    "E0104",
                    f"`\\{match[1]}` means nothing in a text",
                    at,
                    at + 2,
                    "unknown escape",
                    r"a text knows `\"`, `\\`, `\n` and `\t`; write `\\` for a backslash, or `/` in a path",
                )
            return _ESCAPES.get(match[1], match[0])

        return _ESCAPE.sub(replace, text)

    def _unterminated(self, text: str, start: int, end: int) -> None:
        self._report(
            "E0103",
            'a text without its closing `"`',
            start,
            start + len(text.rstrip()),
            "it begins here and must end on this line",
            'close it with `"`; a line break inside a text is written `\\n`',
        )

    def _unexpected(self, text: str, start: int) -> None:
        label, help = "not part of the language", None
        if text == "'":
            help = 'texts are written with double quotes: `"like this"`'
        elif text == ";":
            help = "a statement ends by itself: leave the `;` out"
        elif text == "%":
            help = "write a ratio without a space: `30%`"
            if self.tokens and self.tokens[-1].type in ("INT", "NUMBER") and self.tokens[-1].text[-1].isdigit():
                self.tokens[-1].type = "NUMBER"  # as it was meant
                self.tokens[-1].text += "%"
        elif text == "!":
            help = "comparisons are `<=`, `>=`, `<`, `>`, `==`, `!=`"
        elif not text.isascii() or not text.isprintable():
            label = unicodedata.name(text, "a control character").lower()
            help = "it may have come in by copying: delete it, or type what it looks like"
        shown = text if text.isprintable() else f"U+{ord(text):04X}"
        last = self.diagnostics[-1] if self.diagnostics else None
        if last and last.code == "E0102" and last.primary and last.primary.span.end == start:
            return  # one report for a run of them
        self._report("E0102", f"unexpected character `{shown}`", start, start + 1, label, help)


def listing(words: Iterable[str], last: str = "and") -> str:
    """Return "`a`, `b` and `c`"."""
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
