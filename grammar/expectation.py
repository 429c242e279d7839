"""What could have stood at a syntax error, in the words of the language."""

from __future__ import annotations

from mopt.grammar.automaton import END
from mopt.grammar.diagnostics import nearest
from mopt.grammar.tokens import CONDITION_WORDS, RESERVED, SIGNS, STATEMENT_KEYWORDS, Token, listing

_SIGN_OF = {kind: sign for sign, kind in SIGNS.items()}
_STATEMENTS = frozenset(word.upper() for word in STATEMENT_KEYWORDS)
_NAMES = _STATEMENTS | {"NAME", *(word.upper() for word in CONDITION_WORDS)}
_COMPARISONS = frozenset(("LE", "GE", "LT", "GT", "EQ", "NE"))
_ARITHMETIC = frozenset(("PLUS", "MINUS", "STAR", "SLASH"))


def describe_token(token: Token) -> str:
    """Name a terminal that was found."""
    if token.type == END:
        return "the end of the file"
    if token.type == "STRING":
        return "a text"
    if token.text in RESERVED:
        return f"the reserved word `{token.text}`"
    return f"`{token.text}`"


def describe(expected: frozenset[str], token: Token) -> tuple[str, str | None]:
    """Say what was expected, and what help there is for what was found."""
    rest = set(expected)
    words: list[str] = []
    if {"STRING", "LSQB", "INT"} <= rest:
        words.append("a value")
        rest -= {"STRING", "LSQB", "LBRACE", "INT", "NUMBER", "MINUS", "TRUE", "FALSE", "ANY"} | _NAMES
    elif {"INT", "LPAR", "NAME"} <= rest:
        words.append("a number or a measured quantity")
        rest -= {"INT", "NUMBER", "MINUS", "LPAR"} | _NAMES
    elif {"NAME", *_STATEMENTS} <= rest:
        words.append("a name")
        rest -= _NAMES
    elif rest >= _STATEMENTS:
        words.append("a statement")
        rest -= _STATEMENTS
    elif {"NAME", "REQUIRE"} <= rest:
        words.append("a step")
        # A condition before it may go on, which is not worth a word.
        rest -= {"REQUIRE"} | _NAMES
    if rest >= _COMPARISONS:
        words.append("a comparison (`<=`, `>=`, …)")
        rest -= _COMPARISONS | _ARITHMETIC
    elif rest >= _ARITHMETIC:
        rest -= _ARITHMETIC
    if words and words[0] != "a statement":
        rest.discard(END)
    for kind, word in (("NAME", "a name"), ("STRING", "a text"), ("INT", "a whole number"), ("NUMBER", "a number")):
        if kind in rest:
            rest.discard(kind)
            words.append(word)
    signs = [f"`{_SIGN_OF[kind]}`" for kind in SIGNS.values() if kind in rest]
    words += signs
    if END in rest and not words:
        words.append("the end of the file")
    if not words:
        words = [f"`{kind.lower()}`" for kind in sorted(rest)]
    return _join(words), _help(expected, token, words)


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _help(expected: frozenset[str], token: Token, words: list[str]) -> str | None:
    if words[0] == "a statement":
        close = nearest(token.text, STATEMENT_KEYWORDS) if token.type == "NAME" else None
        if close:
            return f"did you mean `{close}`?"
        if token.type == "NAME":
            return "passes stand inside a pipeline; a statement begins with " + listing(STATEMENT_KEYWORDS, "or")
        return "a statement begins with " + listing(STATEMENT_KEYWORDS, "or")
    if words[0] == "a step" and token.type in _STATEMENTS:
        return "close the pipeline with `}` before the next statement"
    if token.text in RESERVED and "NAME" in expected:
        return f"`{token.text}` is reserved: choose another name"
    if "EQUAL" in expected and "COMMA" not in expected and token.type in ("MINUS", *_NAMES):
        return "a name is one word of letters, digits and `_`"
    if token.type == "EQ" and "EQUAL" in expected:
        return "an option is given with one `=`"
    if token.type == "EQUAL" and "EQ" in expected:
        return "a comparison for equality is `==`"
    if expected == {"LPAR", "DOT"}:
        return "passes, sources and all that is made are called with parentheses, as in `simplify()`"
    return None
