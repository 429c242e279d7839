"""Turn `mopt.lark` into `table.json`, the LALR table that `automaton.py` runs.

Lark needs about 0.1 s of CPU to be imported and to build the table, which is a third of what a whole `mopt check`
may take; the table itself loads in a millisecond. Run `python -m mopt.grammar.generate` after a change to the
grammar; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
STARTS = ("start", "value")


def generate() -> str:
    """Return the table as JSON text.

    `rules`: for each rule its name and the number of its parts. `states`: for each state, symbol → n > 0: shift
    (or go to) state n - 1; n < 0: reduce by rule -n - 1. `starts`: symbol → its first and its accepting state.

    Raises:
        lark.exceptions.GrammarError: the grammar is not LALR(1) without conflicts.
    """
    from lark import Lark
    from lark.lexer import Lexer
    from lark.parsers.lalr_analysis import Shift

    class NoLexer(Lexer):
        def __init__(self, lexer_conf: object) -> None:
            """Tokens are made elsewhere."""

        def lex(self, *_: object) -> Any:
            return iter(())

    grammar = (FOLDER / "mopt.lark").read_text(encoding="utf-8")
    options: Any = {"parser": "lalr", "lexer": NoLexer, "keep_all_tokens": True, "maybe_placeholders": False}
    parser: Any = Lark(grammar, start=list(STARTS), **options)
    table = parser.parser.parser._parse_table
    # Lark numbers states in the order of a set: number them anew, breadth first, so that a grammar has one table.
    order: dict[int, int] = {table.start_states[start]: index for index, start in enumerate(STARTS)}
    rules: dict[Any, int] = {}
    states: list[dict[str, int]] = []
    for number in (queue := list(order)):
        row: dict[str, int] = {}
        for symbol, (action, argument) in sorted(table.states[number].items()):
            if action is not Shift:
                row[symbol] = -rules.setdefault(argument, len(rules)) - 1
                continue
            if argument not in order:
                order[argument] = len(order)
                queue.append(argument)
            row[symbol] = order[argument] + 1
        states.append(row)
    described = [[rule.origin.name, len(rule.expansion), bool(rule.options.expand1)] for rule in rules]
    starts = {start: [order[table.start_states[start]], order[table.end_states[start]]] for start in STARTS}
    parts = ['"rules": ' + json.dumps(described), '"starts": ' + json.dumps(starts)]
    lines = ",\n".join(json.dumps(row) for row in states)
    return "{" + ",\n".join(parts) + ',\n"states": [\n' + lines + "\n]}\n"


def main() -> None:
    """Write the table."""
    (FOLDER / "table.json").write_text(generate(), encoding="utf-8")


if __name__ == "__main__":
    main()
