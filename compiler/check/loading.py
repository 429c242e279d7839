"""The recipe file and all it imports, as one list of statements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mopt.check.paths import package_folders
from mopt.check.report import Report
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Diagnostic, Label
from mopt.grammar.parse import parse
from mopt.grammar.read import read
from mopt.grammar.source import Source


@dataclass
class Program:
    """A recipe with its imports.

    Attributes:
        root: the recipe itself, None if it could not be read.
        statements: all statements; those of an imported recipe stand where the import stood.
        sources: every file that was read, the recipe itself first.
        bases: for each source the folder that its paths are relative to.
        lost: names that syntax errors may have swallowed.
        broken: whether there were syntax errors.
        incomplete: whether an import failed.
    """

    root: Source | None = None
    statements: list[syntax.Statement] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    bases: dict[Source, Path] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    broken: bool = False
    incomplete: bool = False


class _Loader:
    def __init__(self, report: Report) -> None:
        self._report = report
        self.program = Program()
        self._seen: set[Path] = set()
        self._open: list[tuple[Path, syntax.Import]] = []

    def load(self, path: Path, shown: str, statement: syntax.Import | None) -> None:
        identity = _identity(path)
        if identity in self._seen:
            return
        source, diagnostics = read(path, shown)
        if source is None:
            self._unreadable(diagnostics, statement)
            return
        self._seen.add(identity)
        program = self.program
        program.root = program.root or source
        program.sources.append(source)
        program.bases[source] = identity.parent
        parsed = parse(source)
        self._report.add(parsed.diagnostics)
        program.lost |= parsed.lost
        program.broken |= not parsed.ok
        for one in parsed.tree.statements:
            if isinstance(one, syntax.Import):
                self._import(one, identity, source)
            else:
                program.statements.append(one)

    def _import(self, statement: syntax.Import, importer: Path, source: Source) -> None:
        text = statement.path.value
        path, reason = _locate(text, self.program.bases[source])
        if path is None:
            message = f"can't import `{text}`"
            self._report.error("E0601", message, statement.path.span, "not found", notes=[reason])
            self.program.incomplete = True
            return
        self._open.append((importer, statement))
        identity = _identity(path)
        begun = [place for place, _ in self._open]
        if identity in begun:
            self._cycle(statement, begun.index(identity))
        elif len(self._open) > 64:
            self._report.error("E0602", "imports are nested more than 64 deep", statement.span, "import 65")
        else:
            shown = text if text.startswith("pkg:") else str(Path(source.path).parent / text)
            self.load(path, shown, statement)
        self._open.pop()

    def _cycle(self, statement: syntax.Import, first: int) -> None:
        trail = [one for _, one in self._open[first:]]
        others = [Label(one.span, "and that is imported here") for one in trail[:-1]]
        what = "a recipe that imports itself" if len(trail) == 1 else "recipes that import one another"
        self._report.error(
            "E0602",
            what,
            statement.path.span,
            "this recipe is being imported already" if others else "this is the recipe itself",
            secondary=others,
            help="move what both need into a recipe of its own",
        )

    def _unreadable(self, diagnostics: tuple[Diagnostic, ...], statement: syntax.Import | None) -> None:
        if statement is None:
            self._report.add(diagnostics)
            return
        self.program.incomplete = True
        for one in diagnostics:
            if one.primary is not None:  # the place in the imported file says more
                self._report.add([one])
                continue
            self._report.error(
                "E0601",
                f"can't import `{statement.path.value}`",
                statement.path.span,
                one.message,
                help=one.help,
            )


def _locate(text: str, base: Path) -> tuple[Path | None, str]:
    """Return where an imported recipe is, or None and why it can't be said."""
    if text.startswith("pkg:"):
        package, _, inner = text.removeprefix("pkg:").partition("/")
        folders = package_folders(package)
        if folders is None:
            return None, f"no Python package `{package}` is installed here"
        found = [folder / inner for folder in folders if (folder / inner).is_file()]
        return (found[0], "") if found else (None, f"the package `{package}` has no file `{inner}`")
    try:
        return base / Path(text).expanduser(), ""
    except RuntimeError as error:
        return None, str(error)


def _identity(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path.absolute()


def load_program(path: Path, report: Report) -> Program:
    """Read a recipe and its imports. A recipe imported by two ways is taken once; cycles are reported."""
    loader = _Loader(report)
    loader.load(path, str(path), None)
    return loader.program


def base_of(program: Program, source: Source) -> Path:
    """Return the folder that the paths in a source are relative to (`--set` values: the recipe's own)."""
    bases: Mapping[Source, Path] = program.bases
    if source in bases:
        return bases[source]
    return bases[program.root] if program.root is not None else Path()
