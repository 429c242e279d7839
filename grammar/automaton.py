"""The LALR automaton of `mopt.lark`: a table, a stack, no recursion."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mopt.grammar.tokens import Token

END = "$END"

_BEGINS_ITEM = {"_steps": "REQUIRE", "_statements": "PIPELINE"}
"""A terminal that begins an item of a list, and nothing else there."""

Reduce = Callable[[str, list[Any]], Any]
"""Builds the value of a rule from the values of its parts (tokens and built values)."""


class Table(NamedTuple):
    """What `generate.py` describes."""

    rules: list[tuple[str, int, bool]]
    states: list[dict[str, int]]
    starts: dict[str, tuple[int, int]]


@functools.cache
def table() -> Table:
    """Load the table."""
    data = json.loads((Path(__file__).resolve().parent / "table.json").read_text(encoding="utf-8"))
    return Table([tuple(rule) for rule in data["rules"]], data["states"], data["starts"])


class UnexpectedTerminalError(Exception):
    """A terminal that can't stand where it stands."""


class Automaton:
    """One parse in progress.

    Values of rules whose name begins with `_` are lists that are spliced into the list of the rule around them.
    """

    def __init__(self, start: str, reduce: Reduce) -> None:
        self._table = table()
        first, self._accepting = self._table.starts[start]
        self._states = [first]
        self._values: list[Any] = []
        self._reduce = reduce

    def feed(self, token: Token) -> None:
        """Take one terminal.

        Raises:
            UnexpectedTerminalError: it can't stand here; nothing was changed but reductions that were due anyway.
        """
        rows, states = self._table.states, self._states
        while True:
            action = rows[states[-1]].get(token.type)
            if action is None:
                raise UnexpectedTerminalError
            if action > 0:
                states.append(action - 1)
                self._values.append(token)
                return
            self._step(action)

    def finish(self) -> Any:
        """Take the end of the text and return the value of the start rule.

        Raises:
            UnexpectedTerminalError: it can't end here.
        """
        while self._states[-1] != self._accepting:
            action = self._table.states[self._states[-1]].get(END, 0)
            if action >= 0:
                raise UnexpectedTerminalError
            self._step(action)
        return self._values[-1]

    def _step(self, action: int) -> None:
        name, count, collapse = self._table.rules[-action - 1]
        split = len(self._values) - count
        parts = self._values[split:]
        del self._values[split:]
        del self._states[len(self._states) - count :]
        self._values.append(self._value(name, parts, collapse))
        self._states.append(self._table.states[self._states[-1]][name] - 1)

    def _value(self, name: str, parts: list[Any], collapse: bool) -> Any:
        if name[0] == "_":
            if len(parts) == 1:
                part = parts[0]
                return part if type(part) is list else parts
            if parts and type(parts[0]) is list:  # a left-recursive list grows in place
                flat: list[Any] = parts[0]
                rest = parts[1:]
            else:
                flat, rest = [], parts
            for part in rest:
                if type(part) is list:
                    flat.extend(part)
                else:
                    flat.append(part)
            return flat
        flat = []
        for part in parts:
            if type(part) is list:
                flat.extend(part)
            else:
                flat.append(part)
        if collapse and len(flat) == 1:
            return flat[0]
        return self._reduce(name, flat)

    def accepts(self, type: str) -> bool:
        """Say whether a terminal could stand here, changing nothing."""
        rules, rows = self._table.rules, self._table.states
        states = list(self._states)
        while True:
            if type == END and states[-1] == self._accepting:
                return True
            action = rows[states[-1]].get(type)
            if action is None:
                return False
            if action > 0:
                return type != END
            name, count, _ = rules[-action - 1]
            del states[len(states) - count :]
            states.append(rows[states[-1]][name] - 1)

    def expected(self) -> frozenset[str]:
        """Return every terminal that could stand here."""
        row = self._table.states[self._states[-1]]
        return frozenset(symbol for symbol in row if symbol.isupper() and self.accepts(symbol))

    def _settle(self, type: str) -> None:
        """Do the reductions that are due before a terminal, if it could stand here."""
        if self.accepts(type):
            while (action := self._table.states[self._states[-1]][type]) < 0:
                self._step(action)

    def unwind(self, rule: str, settle: bool = True) -> bool:
        """Drop what is unfinished back to the innermost list of `rule` (`_steps`, `_statements`); say if there is one.

        The list itself, with all that it holds so far, stays; an item that is complete joins it if `settle`.
        """
        if settle:
            self._settle(_BEGINS_ITEM[rule])
        for depth in range(len(self._states) - 1, -1, -1):
            goto = self._table.states[self._states[depth]].get(rule)
            if goto is not None:
                if depth == len(self._states) - 1:
                    # The list has not begun: begin it.
                    self._values.append([])
                else:
                    del self._values[depth + 1 :]
                del self._states[depth + 1 :]
                self._states.append(goto - 1)
                return True
        return False
