"""The functions behind `import mopt` that wrap the command line's work for Python programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from mopt.check import CheckResult
    from mopt.report import Results


def check_recipe(path: str | os.PathLike[str], *, settings: Mapping[str, Any] | None = None) -> CheckResult:
    """Check a recipe without running anything.

    Args:
        path: the recipe.
        settings: values for its `param`s, as the language writes them (`{"amount": "35%"}`).
    """
    from mopt.check import check

    return check(Path(path), _texts(settings))


def compile_recipe(
    path: str | os.PathLike[str],
    *,
    targets: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
    profile: str = "auto",
    progress: TextIO | None = None,
) -> Results:
    """Compile a recipe and return the results; `Results.exit_status` is what the command line would exit with.

    Args:
        path: the recipe.
        targets: declared targets or kinds; default: all declared that this machine can serve.
        settings: values for its `param`s, as the language writes them.
        output: where models and reports go; default `build/RECIPE`.
        store: where finished steps are kept; default `$MOPT_STORE`, or the user's cache folder.
        only: globs over pipelines.
        profile: `auto`, `always` or `never`.
        progress: a stream for progress; default: none.

    Raises:
        RecipeError: the recipe, a parameter or a name is wrong.
        TargetError: a target asked for is not there.
        StoreError: the store or the output folder can't be written.
    """
    from mopt.build.progress import SilentReporter, reporter_for
    from mopt.driver import CompileOptions
    from mopt.driver import compile_recipe as run

    options = CompileOptions(
        targets=tuple(targets),
        overrides=_texts(settings),
        output=None if output is None else Path(output),
        store=None if store is None else Path(store),
        only=tuple(only),
        profile=profile,
    )
    reporter = SilentReporter() if progress is None else reporter_for(progress)
    try:
        return run(Path(path), options, reporter)
    finally:
        reporter.close()


def _texts(settings: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (settings or {}).items()}
