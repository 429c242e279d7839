"""The table is that of the grammar."""

from __future__ import annotations

import logging

from mopt.grammar import generate


def test_the_table_is_current():
    written = (generate.FOLDER / "table.json").read_text(encoding="utf-8")
    assert generate.generate() == written, "run `python -m mopt.grammar.generate`"


def test_the_grammar_has_no_conflict(caplog):
    from lark import Lark, logger
    from lark.lexer import Lexer

    class NoLexer(Lexer):
        def __init__(self, conf): ...

        def lex(self, *_):
            return iter(())

    logger.setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        text = (generate.FOLDER / "mopt.lark").read_text(encoding="utf-8")
        Lark(text, parser="lalr", start=list(generate.STARTS), lexer=NoLexer, debug=True)
    logger.setLevel(logging.CRITICAL)
    assert "conflict" not in caplog.text.lower()
