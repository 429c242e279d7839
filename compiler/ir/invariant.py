"""A violated invariant, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One invariant that does not hold.

    Attributes:
        invariant: its name, `sorted` say.
        message: what is wrong.
        node: the name of the node at fault; empty where it is a value or the module.
    """

    invariant: str
    message: str
    node: str = ""

    def __str__(self) -> str:
        where = f" (node `{self.node}`)" if self.node else ""
        return f"{self.invariant}: {self.message}{where}"
