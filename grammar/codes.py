"""The catalogue of diagnostics: stable codes, one explanation each in `explain/CODE.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CATALOGUE: Final[dict[str, str]] = {
    # The file
    "E0001": "the recipe does not exist",
    "E0002": "the recipe can't be read",
    "E0003": "the recipe is not in UTF-8",
    "E0004": "the recipe is not text",
    # The syntax
    "E0101": "something else was expected here",
    "E0102": "unexpected character",
    "E0103": "a text without its closing quote",
    "E0104": "unknown escape in a text",
    "E0105": "nested too deeply",
    "E0106": "unknown unit",
    "E0107": "a number that is too large",
    "E0108": "a bracket that is never closed",
    # Names and options
    "E0201": "unknown name",
    "E0202": "a name declared twice",
    "E0203": "unknown pass, source, target …",
    "E0204": "unknown option",
    "E0205": "missing option",
    "E0206": "an option given twice",
    "E0207": "too many options by position, or one after a named one",
    "E0208": "a statement given twice",
    "E0209": "`--set` of an unknown parameter",
    "E0210": "a plug-in that can't be loaded",
    "E0211": "a name that means something else already",
    # Values
    "E0301": "a value of the wrong type",
    "E0302": "none of the choices",
    "E0303": "out of bounds",
    "E0304": "a ratio out of range",
    "E0305": "an impossible N of M",
    "E0306": "a declaration of the wrong kind",
    "E0307": "the same key or alternative twice",
    "E0308": "an impossible tensor type",
    "E0309": "an impossible slice",
    "E0310": "`--set` of a wrong value",
    "E0311": "`any` where nothing can be varied",
    "E0312": "not of the form `file.py:name`",
    "E0313": "a parameter that is not a constant",
    "E0314": "options that do not go together",
    # Pipelines
    "E0401": "a pipeline that is its own ancestor",
    "E0402": "used before it is declared",
    "E0403": "an order of passes that can't work",
    "E0404": "a pass without the data or the loss it needs",
    "E0405": "too many variants",
    "E0406": "several variants where one is needed",
    "E0407": "a promise that a later pass breaks",
    "E0408": "an empty recipe",
    "E0409": "a recipe without pipelines",
    # Conditions
    "E0501": "nothing of this name is measured",
    "E0502": "units that do not go together",
    "E0503": "a metric that is not evaluated",
    "E0504": "a condition that measures nothing",
    # Imports and files
    "E0601": "an import that can't be found",
    "E0602": "recipes that import one another",
    "E0603": "a file that does not exist",
    "E0604": "a package that is not installed",
    "E0605": "not in the local Hugging Face cache",
    # Hints
    "E0701": "declared and never used",
}
"""Code → what it is about. A code never changes its meaning and is never given out twice."""


def explain(code: str) -> str:
    """Return the long form of a diagnostic as Markdown, with a wrong and a mended recipe.

    Raises:
        KeyError: there is no such code.
    """
    code = code.strip().upper()
    if code not in CATALOGUE:
        raise KeyError(code)
    return (Path(__file__).resolve().parent / "explain" / f"{code}.md").read_text(encoding="utf-8")
