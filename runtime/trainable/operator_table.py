"""The table of operators in the documentation, made of what is declared.

`python -m mopt.runtime.trainable.operator_table docs/training-operators.md` writes it anew.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

from mopt.runtime.trainable.control import COMPILERS
from mopt.runtime.trainable.operator import OPERATORS
from mopt.runtime.trainable.operators import load_all

BEGIN: Final = "<!-- operators: made by mopt.runtime.trainable.operator_table -->\n"
END: Final = "<!-- end of operators -->\n"
_DOMAINS: Final = {"": "ONNX"}


def operator_table() -> str:
    """Return all operators in Markdown: a section for each domain, a row for each family."""
    load_all()
    families: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (domain, name), prepare in OPERATORS.items():
        family = prepare.__module__.rpartition(".")[2].removeprefix("microsoft_").replace("_", " ")
        families[domain][family].append(name)
    families[""]["control"] += COMPILERS
    lines: list[str] = []
    for domain in sorted(families):
        count = sum(len(names) for names in families[domain].values())
        lines += [f"### {_DOMAINS.get(domain, domain)} ({count})", "", "| family | operators |", "|---|---|"]
        for family, names in sorted(families[domain].items()):
            lines.append(f"| {family} | {', '.join(f'`{name}`' for name in sorted(names))} |")
        lines.append("")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return a page with the table between its two marks made anew.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the table, between {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + "\n" + operator_table() + END + after


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_table(target.read_text("utf-8")), "utf-8")
