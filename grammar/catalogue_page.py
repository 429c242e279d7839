"""`docs/diagnostics.md`, made of the catalogue: `python -m mopt.grammar.catalogue_page`."""

from __future__ import annotations

from pathlib import Path

from mopt.grammar.codes import CATALOGUE, explain

_GROUPS = {
    "E00": "The file",
    "E01": "The syntax",
    "E02": "Names and options",
    "E03": "Values",
    "E04": "Pipelines",
    "E05": "Conditions",
    "E06": "Imports and files",
    "E07": "Hints",
}
_HEAD = """\
# Diagnostics

<!-- Made by `python -m mopt.grammar.catalogue_page` from grammar/codes.py and grammar/explain/: edit those. -->

What `mopt check` can say of a recipe. A code is stable: it never changes its meaning. `mopt explain CODE` prints the
section of a code; `mopt check --json` gives the same diagnostics to machines. E0407, E0409, E0604, E0605 and E0701 are
warnings, which do not stop a recipe from being compiled; all others are errors.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD]
    for prefix, title in _GROUPS.items():
        codes = [code for code in CATALOGUE if code.startswith(prefix)]
        rows = "\n".join(f"| [{code}](#{code.lower()}) | {CATALOGUE[code]} |" for code in codes)
        parts.append(f"## {title}\n\n| code | about |\n|---|---|\n{rows}\n")
        for code in codes:
            _, _, body = explain(code).partition("\n")
            parts.append(f'### <a id="{code.lower()}"></a>{code}: {CATALOGUE[code]}\n{body.rstrip()}\n')
    return "\n".join(parts)


def main() -> None:
    """Write the page into the repository."""
    docs = Path(__file__).resolve().parent.parent / "docs" / "diagnostics.md"
    docs.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
