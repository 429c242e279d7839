"""Graph rewriting: stateless rules, a view to match them against, a fixpoint driver and its trace."""

from mopt.rewrite.constants import any_constant, constant_array
from mopt.rewrite.driver import apply_rules
from mopt.rewrite.nearest import Explanation, explain, explain_rule
from mopt.rewrite.rule import Applied, Bindings, Miss, Replacement, Rule, Trace
from mopt.rewrite.view import View

__all__ = [
    "Applied",
    "Bindings",
    "Explanation",
    "Miss",
    "Replacement",
    "Rule",
    "Trace",
    "View",
    "any_constant",
    "apply_rules",
    "constant_array",
    "explain",
    "explain_rule",
]
