"""Paths in options: they must lead somewhere, but nothing is opened, and no package is imported."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from mopt.check.report import Report
from mopt.check.surroundings import FAILED, Site
from mopt.grammar import syntax
from mopt.grammar.diagnostics import nearest
from mopt.grammar.source import Span
from mopt.values import Location, LocationError, PythonRef

_PYTHON = re.compile(r"(?P<file>.*\.py):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)", re.DOTALL)


def is_python_reference(text: str) -> bool:
    """Say whether a text has the form `file.py:name`."""
    return _PYTHON.fullmatch(text) is not None


def python_reference(node: syntax.String, base: Path, site: Site, report: Report) -> object:
    """Return `"file.py:name"` taken apart, or `FAILED`."""

    match = _PYTHON.fullmatch(node.value)
    if match is None:
        return site.error(
            report,
            "E0312",
            f'{site.what} takes `"file.py:name"`',
            node,
            "no name behind a colon" if node.value.endswith(".py") else f'found `"{node.value}"`',
            help='a Python file and a name defined in it, as in `"model.py:CRNN"`',
        )
    location = Location(match["file"], str(base))
    return PythonRef(location, match["name"]) if check_location(location, node, site, report) else FAILED


def check_location(location: Location, node: syntax.String, site: Site, report: Report) -> bool:
    """Report a path that leads nowhere; a package or a hub model that is not here yet is only a warning."""
    text = location.text
    if text.startswith("pkg:"):
        return _check_package(text, node, site, report)
    if text.startswith("hf:"):
        try:
            location.resolve()
        except LocationError as error:
            label = "needed when the recipe is compiled"
            report.warn("E0605", f"`{text}` is not here yet", (site.via or node).span, label, notes=[str(error)])
        return True
    try:
        path = Path(location.base) / Path(text).expanduser()
        exists = bool(text) and path.exists()
    except (OSError, ValueError, RuntimeError):
        exists, path = False, Path(location.base)
    if not exists:
        label, help = _nothing_at(path, Path(location.base), text)
        site.error(report, "E0603", f"no file `{text}`", node, label, help=help)
    return exists


def _nothing_at(path: Path, base: Path, text: str) -> tuple[str, str]:
    shown = "the recipe's folder" if path.parent == base else f"`{Path(text).parent}`"
    try:
        siblings = [child.name for child in path.parent.iterdir()]
    except OSError:
        return "there is no such folder", "paths are relative to the folder of the recipe that names them"
    close = nearest(path.name, siblings)
    if close and text:
        return f"did you mean `{text[: len(text) - len(path.name)]}{close}`?", f"it is looked for in {shown}"
    return "nothing there", "paths are relative to the folder of the recipe that names them"


def package_folders(package: str) -> list[Path] | None:
    """Return the folders of an installed package, found without importing it; None if it is not installed."""
    top, *inner = package.split(".")
    try:
        spec = importlib.util.find_spec(top) if top.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    if not roots and spec.origin:
        roots = [Path(spec.origin).parent]
    return [root.joinpath(*inner) for root in roots]


def _check_package(text: str, node: syntax.String, site: Site, report: Report) -> bool:
    package, _, inner = text.removeprefix("pkg:").partition("/")
    span: Span = (site.via or node).span
    roots = package_folders(package)
    if roots is None:
        if report.first("E0604", package):
            top = package.partition(".")[0].replace("_", "-")
            report.warn(
                "E0604",
                f"no Python package `{package}` is installed here",
                span,
                "needed when the recipe is compiled",
                help=f"install what brings it, often of the same name: `pip install {top}`",
            )
        return True
    if any((root / inner).exists() for root in roots):
        return True
    target = roots[0] / inner if roots else Path(inner)
    names = [child.name for child in target.parent.iterdir()] if target.parent.is_dir() else []
    close = nearest(target.name, names)
    label = f"did you mean `{text[: len(text) - len(target.name)]}{close}`?" if close else "nothing there"
    site.error(report, "E0603", f"the package `{package}` has no file `{inner}`", node, label)
    return False
