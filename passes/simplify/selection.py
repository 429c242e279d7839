"""Choosing rules by name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from mopt.ir.module import Module
from mopt.passes.simplify.ruleset import RULES
from mopt.rewrite import Rule
from mopt.rewrite import explain_rule as _explain_rule


class UnknownRuleError(ValueError):
    """A pattern matches no rule; the message names the nearest one."""


def select(only: Sequence[str], skip: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules that one of `only` (none: all) and none of `skip` matches, in order.

    Raises:
        UnknownRuleError: a pattern matches nothing.
    """
    names = [rule.name for rule in RULES]
    for pattern in (*only, *skip):
        if not fnmatch.filter(names, pattern):
            close = difflib.get_close_matches(pattern, names, n=1)
            raise UnknownRuleError(
                f"no rewrite rule matches `{pattern}`" + (f"; did you mean `{close[0]}`?" if close else "")
            )
    return tuple(
        rule
        for rule in RULES
        if (not only or any(fnmatch.fnmatch(rule.name, pattern) for pattern in only))
        and not any(fnmatch.fnmatch(rule.name, pattern) for pattern in skip)
    )


def explain_rule(name: str, module: Module) -> str:
    """Say where a rule of this project applies in a module, or its nearest miss and why it missed.

    Raises:
        KeyError: no rule has that name; the message names the nearest one.
    """
    return _explain_rule(name, module, RULES)
